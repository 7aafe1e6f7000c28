/* Attention, softmax(q k^T scale + bias) v, in all heads of G windows of M tokens of each map of T.
 *
 * The products are MKL's, for one head of one window each, on q, k and v where the linear layer has
 * put them; so no head is copied, and scores are in a cache when softmax reads them. Rows of windows,
 * which lie apart, are copied to be together.
 */
extern void cblas_sgemm(int layout, int transpose_a, int transpose_b, int m, int n, int k,
                        float alpha, const float *a, int lda, const float *b, int ldb, float beta,
                        float *c, int ldc);

#define SCORES 65536 /* of so many numbers in a block of rows the next product finds most in a cache */
#define LEAST_ROWS 64
#define APART -100.0f /* as APART in layers/windows.py */

/* c [m, n] = alpha a [m, k] b [k, n] + beta c; with ta, tb the transposed matrix lies there. */
static inline void product(int ta, int tb, int64_t m, int64_t n, int64_t k, float alpha,
                           const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                           float *c, int64_t ldc)
{
    cblas_sgemm(101, ta ? 112 : 111, tb ? 112 : 111, (int)m, (int)n, (int)k, alpha, a, (int)lda, b,
                (int)ldb, beta, c, (int)ldc);
}

static inline int64_t score_rows(int64_t M)
{
    int64_t rows = SCORES / M > LEAST_ROWS ? SCORES / M : LEAST_ROWS;
    return MINIMUM(rows, M);
}

/* Numbers that a thread needs besides: two blocks of scores, and eight matrices [M, d]. */
int64_t attention_scratch(int64_t M, int64_t d)
{
    return 2 * score_rows(M) * M + 8 * M * d;
}

typedef struct { /* M rows of d numbers, one each `stride` */
    float *at;
    int64_t stride;
} Rows;

/* The rows of one head of one window in x [T, stride]; x is its first number in the map. Those that
 * lie apart (order: which tokens) are to be in `packed`. */
static inline Rows rows_of(float *x, int64_t stride, const int32_t *order, int64_t d, float *packed)
{
    return order ? (Rows){packed, d} : (Rows){x, stride};
}

static inline void gather(int64_t M, int64_t d, const float *restrict x, int64_t stride,
                          const int32_t *restrict order, float *restrict packed)
{
    for (int64_t i = 0; i < M; i++)
        memcpy(packed + i * d, x + order[i] * stride, d * sizeof *x);
}

static inline void scatter(int64_t M, int64_t d, const float *restrict packed, int64_t stride,
                           const int32_t *restrict order, float *restrict x)
{
    for (int64_t i = 0; i < M; i++)
        memcpy(x + order[i] * stride, packed + i * d, d * sizeof *x);
}

static inline Rows read_rows(const float *x, int64_t stride, const int32_t *order, int64_t M,
                             int64_t d, float *packed)
{
    if (order)
        gather(M, d, x, stride, order, packed);
    return rows_of((float *)x, stride, order, d, packed);
}

/* y = softmax(y + bias) for rows first to first + rows of a head's scores [M, M]; tokens of other
 * regions do not count. */
static inline void softmax_block(int64_t first, int64_t rows, int64_t M, const float *restrict bias,
                                 const int32_t *restrict regions, float *restrict y)
{
    for (int64_t row = first; row < first + rows; row++, y += M) {
        float top = -INFINITY;
        if (bias) {
            const float *restrict br = bias + row * M;
            SIMD
            for (int64_t i = 0; i < M; i++)
                y[i] += br[i];
        }
        if (regions) {
            int32_t own = regions[row];
            SIMD
            for (int64_t i = 0; i < M; i++)
                y[i] += regions[i] == own ? 0.0f : APART;
        }
        _Pragma("omp simd reduction(max:top)")
        for (int64_t i = 0; i < M; i++)
            top = y[i] > top ? y[i] : top;
        softmax_row(M, top, y);
    }
}

static inline void keep_block(int64_t size, const float *x, const uint8_t *mask, float scale,
                              float *y)
{
    SIMD
    for (int64_t i = 0; i < size; i++)
        y[i] = x[i] * kept(mask, scale, i);
}

/* y [B, T, n, d] of qkv [B, T, 3, n, d].
 * order: [G, M], which token of the map is which of the window; NULL where G is 1 and they are all.
 * bias: [n, M, M] or NULL. regions: [G, M] or NULL. mask: [B, G, n, M, M], of dropout, or NULL.
 * weights: [B, G, n, M, M], what softmax gives, or NULL. scratch: [threads, attention_scratch]. */
void attention(int64_t B, int64_t T, int64_t G, int64_t M, int64_t n, int64_t d, int64_t threads,
               const int32_t *order, const float *qkv, float scale, const float *bias,
               const int32_t *regions, const uint8_t *mask, float keep_scale, float *weights,
               float *y, float *scratch)
{
    int64_t C = n * d, pairs = B * G * n, block = score_rows(M);
    _Pragma("omp parallel for schedule(static, 1) if (pairs * M * (M + d) > LARGE)")
    for (int64_t part = 0; part < threads; part++) {
        float *own = scratch + part * attention_scratch(M, d), *dropped = own + block * M;
        float *packed = dropped + block * M;
        for (int64_t pair = pairs * part / threads; pair < pairs * (part + 1) / threads; pair++) {
            int64_t b = pair / n / G, g = pair / n % G, h = pair % n;
            const int32_t *tokens = order ? order + g * M : NULL;
            const float *x = qkv + b * T * 3 * C + h * d;
            float *to = y + b * T * C + h * d;
            Rows q = read_rows(x, 3 * C, tokens, M, d, packed);
            Rows k = read_rows(x + C, 3 * C, tokens, M, d, packed + M * d);
            Rows v = read_rows(x + 2 * C, 3 * C, tokens, M, d, packed + 2 * M * d);
            Rows out = rows_of(to, C, tokens, d, packed + 3 * M * d);
            for (int64_t i = 0; i < M; i += block) {
                int64_t rows = MINIMUM(block, M - i), at = (pair * M + i) * M;
                float *scores = weights ? weights + at : own, *used = scores;
                product(0, 1, rows, M, d, scale, q.at + i * q.stride, q.stride, k.at, k.stride, 0,
                        scores, M);
                softmax_block(i, rows, M, bias ? bias + h * M * M : NULL,
                              regions ? regions + g * M : NULL, scores);
                if (mask)
                    keep_block(rows * M, scores, mask + at, keep_scale, used = dropped);
                product(0, 0, rows, d, M, 1, used, M, v.at, v.stride, 0, out.at + i * out.stride,
                        out.stride);
            }
            if (order)
                scatter(M, d, out.at, C, tokens, to);
        }
    }
}

/* From the gradient dy of y that of qkv, and of the bias its sums over the pairs of each thread,
 * bias_sums [threads, n, M, M], zeros at first, or NULL. */
void attention_gradient(int64_t B, int64_t T, int64_t G, int64_t M, int64_t n, int64_t d,
                        int64_t threads, const int32_t *order, const float *qkv, float scale,
                        const uint8_t *mask, float keep_scale, const float *weights,
                        const float *dy, float *dqkv, float *bias_sums, float *scratch)
{
    int64_t C = n * d, pairs = B * G * n, block = score_rows(M);
    _Pragma("omp parallel for schedule(static, 1) if (pairs * M * (M + d) > LARGE)")
    for (int64_t part = 0; part < threads; part++) {
        float *ds = scratch + part * attention_scratch(M, d), *dropped = ds + block * M;
        float *packed = dropped + block * M;
        for (int64_t pair = pairs * part / threads; pair < pairs * (part + 1) / threads; pair++) {
            int64_t b = pair / n / G, g = pair / n % G, h = pair % n;
            const int32_t *tokens = order ? order + g * M : NULL;
            const float *x = qkv + b * T * 3 * C + h * d;
            float *dx = dqkv + b * T * 3 * C + h * d;
            Rows q = read_rows(x, 3 * C, tokens, M, d, packed);
            Rows k = read_rows(x + C, 3 * C, tokens, M, d, packed + M * d);
            Rows v = read_rows(x + 2 * C, 3 * C, tokens, M, d, packed + 2 * M * d);
            Rows out = read_rows(dy + b * T * C + h * d, C, tokens, M, d, packed + 3 * M * d);
            Rows dq = rows_of(dx, 3 * C, tokens, d, packed + 4 * M * d);
            Rows dk = rows_of(dx + C, 3 * C, tokens, d, packed + 5 * M * d);
            Rows dv = rows_of(dx + 2 * C, 3 * C, tokens, d, packed + 6 * M * d);
            for (int64_t i = 0; i < M; i += block) {
                int64_t rows = MINIMUM(block, M - i), at = (pair * M + i) * M;
                const float *w = weights + at, *used = w;
                const float *out_rows = out.at + i * out.stride;
                product(0, 1, rows, M, d, 1, out_rows, out.stride, v.at, v.stride, 0, ds, M);
                if (mask) {
                    keep_block(rows * M, w, mask + at, keep_scale, dropped);
                    keep_block(rows * M, ds, mask + at, keep_scale, ds);
                    used = dropped;
                }
                product(1, 0, M, d, rows, 1, used, M, out_rows, out.stride, i > 0, dv.at,
                        dv.stride);
                for (int64_t row = 0; row < rows; row++)
                    softmax_gradient_row(M, w + row * M, ds + row * M, 1, ds + row * M);
                if (bias_sums) {
                    float *restrict sums = bias_sums + ((part * n + h) * M + i) * M;
                    SIMD
                    for (int64_t j = 0; j < rows * M; j++)
                        sums[j] += ds[j];
                }
                product(0, 0, rows, d, M, scale, ds, M, k.at, k.stride, 0, dq.at + i * dq.stride,
                        dq.stride);
                product(1, 0, M, d, rows, scale, ds, M, q.at + i * q.stride, q.stride, i > 0,
                        dk.at, dk.stride);
            }
            if (order) {
                scatter(M, d, dq.at, 3 * C, tokens, dx);
                scatter(M, d, dk.at, 3 * C, tokens, dx + C);
                scatter(M, d, dv.at, 3 * C, tokens, dx + 2 * C);
            }
        }
    }
}
