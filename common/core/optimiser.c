/* A step of AdamW for one parameter, with the operations of Paddle's operator, each rounded as there,
 * in a third of its time. power: beta1^t and beta2^t of this step t, which become those of the next
 * one. */
void adamw(int64_t size, float *restrict weight, const float *restrict gradient,
           float *restrict first, float *restrict second, float *power1, float *power2,
           const float *learning_rate, float beta1, float beta2, float epsilon, float decay)
{
    float root = sqrtf(1.0f - *power2), other1 = 1.0f - beta1, other2 = 1.0f - beta2;
    float rate = *learning_rate * (root / (1.0f - *power1));
    float less = *learning_rate * decay;
    epsilon *= root;
    PARALLEL
    for (int64_t begin = 0; begin < size; begin += BLOCK) {
        int64_t end = MINIMUM(begin + BLOCK, size);
        SIMD
        for (int64_t i = begin; i < end; i++) {
            float g = gradient[i];
            float m = __builtin_fmaf(beta1, first[i], other1 * g);
            float v = __builtin_fmaf(beta2, second[i], other2 * (g * g));
            first[i] = m;
            second[i] = v;
            weight[i] = __builtin_fmaf(-rate, m / (sqrtf(v) + epsilon),
                                       __builtin_fmaf(-less, weight[i], weight[i]));
        }
    }
    *power1 *= beta1;
    *power2 *= beta2;
}
