/* Kernels for float32 on a CPU; layers/fast/kernels.py calls them, native.py builds them.
 *
 * Loops over numbers are written so that a compiler makes vectors of them: no branches, no calls.
 * Every number of a result is computed by one thread, in an order that the number of threads alone
 * decides, so a run can be repeated exactly.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

extern int omp_get_max_threads(void);

#define BLOCK 4096 /* numbers that a thread takes at a time */
#define LARGE 65536 /* numbers for which threads are worth while */
#define PARALLEL _Pragma("omp parallel for schedule(static) if (size > LARGE)")
#define SIMD _Pragma("omp simd")
#define MINIMUM(a, b) ((a) < (b) ? (a) : (b))

/* exp(x), to 1e-7 of it; 0 below -87, exp(88) above 88. 2^n exp(r) with |r| <= ln(2) / 2, and exp(r)
 * by its Taylor series. */
static inline float exponential(float x)
{
    float low = x < -87.0f ? 0.0f : 1.0f;
    x = x < -87.0f ? -87.0f : x; /* NaN stays */
    x = x > 88.0f ? 88.0f : x;
    float n = __builtin_rintf(x * 1.442695041f);
    float r = x - n * 0.693145752f; /* ln(2) in two parts, n times the first is exact */
    r = r - n * 1.428606765e-6f;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return p * power * low;
}

/* The normal distribution's P(X < x), given exp(-x^2 / 2); to 1e-7: Abramowitz and Stegun 7.1.26. */
static inline float normal(float x, float exp_half_square)
{
    float t = 1.0f / (1.0f + 0.3275911f * 0.7071067812f * fabsf(x));
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    float tail = 0.5f * p * t * exp_half_square;
    return x < 0 ? tail : 1.0f - tail;
}

static inline float kept(const uint8_t *mask, float scale, int64_t i)
{
    return mask ? (float)mask[i] * scale : 1.0f;
}

/* y = gelu(x) [* mask * scale] */
static inline void gelu_block(int64_t begin, int64_t end, const float *restrict x,
                              const uint8_t *restrict mask, float scale, float *restrict y)
{
    SIMD
    for (int64_t i = begin; i < end; i++)
        y[i] = x[i] * normal(x[i], exponential(-0.5f * x[i] * x[i])) * kept(mask, scale, i);
}

void gelu(int64_t size, const float *x, const uint8_t *mask, float scale, float *y)
{
    PARALLEL
    for (int64_t i = 0; i < size; i += BLOCK) {
        if (mask)
            gelu_block(i, MINIMUM(i + BLOCK, size), x, mask, scale, y);
        else
            gelu_block(i, MINIMUM(i + BLOCK, size), x, NULL, scale, y);
    }
}

/* The same y, and from its gradient dy that of x. */
static inline void gelu_gradient_block(int64_t begin, int64_t end, const float *restrict x,
                                       const uint8_t *restrict mask, float scale,
                                       const float *restrict dy, float *restrict y,
                                       float *restrict dx)
{
    SIMD
    for (int64_t i = begin; i < end; i++) {
        float e = exponential(-0.5f * x[i] * x[i]), p = normal(x[i], e), k = kept(mask, scale, i);
        y[i] = x[i] * p * k;
        dx[i] = dy[i] * k * (p + x[i] * e * 0.3989422804f);
    }
}

void gelu_gradient(int64_t size, const float *x, const uint8_t *mask, float scale, const float *dy,
                   float *y, float *dx)
{
    PARALLEL
    for (int64_t i = 0; i < size; i += BLOCK) {
        if (mask)
            gelu_gradient_block(i, MINIMUM(i + BLOCK, size), x, mask, scale, dy, y, dx);
        else
            gelu_gradient_block(i, MINIMUM(i + BLOCK, size), x, NULL, scale, dy, y, dx);
    }
}

/* y = x / (1 + exp(-x)) */
void silu(int64_t size, const float *restrict x, float *restrict y)
{
    PARALLEL
    for (int64_t begin = 0; begin < size; begin += BLOCK) {
        int64_t end = MINIMUM(begin + BLOCK, size);
        SIMD
        for (int64_t i = begin; i < end; i++)
            y[i] = x[i] / (1.0f + exponential(-x[i]));
    }
}

void silu_gradient(int64_t size, const float *restrict x, const float *restrict dy,
                   float *restrict dx)
{
    PARALLEL
    for (int64_t begin = 0; begin < size; begin += BLOCK) {
        int64_t end = MINIMUM(begin + BLOCK, size);
        SIMD
        for (int64_t i = begin; i < end; i++) {
            float s = 1.0f / (1.0f + exponential(-x[i]));
            dx[i] = dy[i] * s * (1.0f + x[i] * (1.0f - s));
        }
    }
}

/* y = x * mask * scale */
void keep(int64_t size, const float *restrict x, const uint8_t *restrict mask, float scale,
          float *restrict y)
{
    PARALLEL
    for (int64_t begin = 0; begin < size; begin += BLOCK) {
        int64_t end = MINIMUM(begin + BLOCK, size);
        SIMD
        for (int64_t i = begin; i < end; i++)
            y[i] = x[i] * kept(mask, scale, i);
    }
}

/* The generator SFC64, as NumPy has it: its next 64 bits. */
static inline uint64_t next_word(uint64_t *state)
{
    uint64_t word = state[0] + state[1] + state[3]++;
    state[0] = state[1] ^ (state[1] >> 11);
    state[1] = state[2] + (state[2] << 3);
    state[2] = ((state[2] << 24) | (state[2] >> 40)) + word;
    return word;
}

/* mask = whether each of the bytes that the generator's words are is above limit. Those that are equal
 * to it are asked about afterwards, in their order: a number in [0, 1) of a word, at least share. */
void draw_mask(int64_t size, int64_t limit, double share, const uint64_t *state, uint8_t *mask)
{
    uint64_t own[4], words[BLOCK / 8];
    memcpy(own, state, sizeof own);
    int64_t ties = 0;
    for (int64_t begin = 0; begin < size; begin += BLOCK) {
        int64_t count = MINIMUM(BLOCK, size - begin), equal = 0;
        for (int64_t i = 0; i < (count + 7) / 8; i++)
            words[i] = next_word(own);
        const uint8_t *bytes = (const uint8_t *)words;
        uint8_t *restrict to = mask + begin, bound = (uint8_t)limit;
        SIMD
        for (int64_t i = 0; i < count; i++) /* 2 where they are equal, for now */
            to[i] = (bytes[i] > bound) | (uint8_t)((bytes[i] == bound) << 1);
        _Pragma("omp simd reduction(+:equal)")
        for (int64_t i = 0; i < count; i++)
            equal += to[i] >> 1;
        ties += equal;
    }
    for (int64_t i = 0; ties; i++)
        if (mask[i] == 2) {
            mask[i] = (next_word(own) >> 11) * (1.0 / 9007199254740992.0) >= share;
            ties--;
        }
}

/* y = (x - mean) * inverse * weight + bias for each row of C; mean, inverse: [rows], the latter
 * (variance + epsilon)^-1/2. */
void layer_norm(int64_t rows, int64_t C, const float *restrict x, const float *restrict weight,
                const float *restrict bias, float epsilon, float *restrict y, float *restrict mean,
                float *restrict inverse)
{
    int64_t size = rows * C;
    PARALLEL
    for (int64_t row = 0; row < rows; row++) {
        const float *restrict xr = x + row * C;
        float *restrict yr = y + row * C;
        float sum = 0, squares = 0;
        _Pragma("omp simd reduction(+:sum)")
        for (int64_t i = 0; i < C; i++)
            sum += xr[i];
        float m = sum / C;
        _Pragma("omp simd reduction(+:squares)")
        for (int64_t i = 0; i < C; i++)
            squares += (xr[i] - m) * (xr[i] - m);
        float r = 1.0f / sqrtf(squares / C + epsilon);
        SIMD
        for (int64_t i = 0; i < C; i++)
            yr[i] = (xr[i] - m) * r * weight[i] + bias[i];
        mean[row] = m;
        inverse[row] = r;
    }
}

/* dx, and sums of the weight's and the bias's gradient over the rows of each thread, [threads, 2, C],
 * zeros at first. With h = (x - mean) * inverse and g = dy * weight:
 * dx = inverse * (g - mean of g - h * mean of g h). */
void layer_norm_gradient(int64_t rows, int64_t C, int64_t threads, const float *restrict x,
                         const float *restrict weight, const float *restrict dy,
                         const float *restrict mean, const float *restrict inverse,
                         float *restrict dx, float *restrict sums)
{
    _Pragma("omp parallel for schedule(static, 1) if (rows * C > LARGE)")
    for (int64_t part = 0; part < threads; part++) {
        float *restrict dw = sums + part * 2 * C, *restrict db = dw + C;
        for (int64_t row = rows * part / threads; row < rows * (part + 1) / threads; row++) {
            const float *restrict xr = x + row * C, *restrict dyr = dy + row * C;
            float *restrict dxr = dx + row * C;
            float m = mean[row], r = inverse[row], first = 0, second = 0;
            _Pragma("omp simd reduction(+:first,second)")
            for (int64_t i = 0; i < C; i++) {
                float h = (xr[i] - m) * r, g = dyr[i] * weight[i];
                first += g;
                second += g * h;
                dw[i] += dyr[i] * h;
                db[i] += dyr[i];
            }
            first /= C;
            second /= C;
            SIMD
            for (int64_t i = 0; i < C; i++)
                dxr[i] = r * (dyr[i] * weight[i] - first - (xr[i] - m) * r * second);
        }
    }
}

/* y = softmax(y) of C numbers, of which top is the largest. */
static inline void softmax_row(int64_t C, float top, float *restrict y)
{
    float sum = 0;
    _Pragma("omp simd reduction(+:sum)")
    for (int64_t i = 0; i < C; i++) {
        float e = exponential(y[i] - top);
        y[i] = e;
        sum += e;
    }
    sum = 1.0f / sum;
    SIMD
    for (int64_t i = 0; i < C; i++)
        y[i] *= sum;
}

/* y = softmax(x * scale + bias) of each row of C; bias: [bias_rows, C], for row i its row
 * i modulo bias_rows, or NULL. */
void softmax(int64_t rows, int64_t C, const float *restrict x, float scale,
             const float *restrict bias, int64_t bias_rows, float *restrict y)
{
    int64_t size = rows * C;
    PARALLEL
    for (int64_t row = 0; row < rows; row++) {
        const float *restrict xr = x + row * C;
        float *restrict yr = y + row * C;
        float top = -INFINITY;
        if (bias) {
            const float *restrict br = bias + row % bias_rows * C;
            _Pragma("omp simd reduction(max:top)")
            for (int64_t i = 0; i < C; i++) {
                yr[i] = xr[i] * scale + br[i];
                top = yr[i] > top ? yr[i] : top;
            }
        } else {
            _Pragma("omp simd reduction(max:top)")
            for (int64_t i = 0; i < C; i++) {
                yr[i] = xr[i] * scale;
                top = yr[i] > top ? yr[i] : top;
            }
        }
        softmax_row(C, top, yr);
    }
}

/* The gradient of the argument of y = softmax, times scale, for a row: y * (dy - sum of y dy); dx may
 * be dy. */
static inline void softmax_gradient_row(int64_t C, const float *y, const float *dy, float scale,
                                        float *dx)
{
    float sum = 0;
    _Pragma("omp simd reduction(+:sum)")
    for (int64_t i = 0; i < C; i++)
        sum += y[i] * dy[i];
    SIMD
    for (int64_t i = 0; i < C; i++)
        dx[i] = y[i] * (dy[i] - sum) * scale;
}

/* The gradient of x * scale + bias, and times scale that of x. */
void softmax_gradient(int64_t rows, int64_t C, const float *restrict y, const float *restrict dy,
                      float scale, float *restrict dx)
{
    int64_t size = rows * C;
    PARALLEL
    for (int64_t row = 0; row < rows; row++)
        softmax_gradient_row(C, y + row * C, dy + row * C, scale, dx + row * C);
}

#include "attention.c"
#include "optimiser.c"
#include "convolutions.c"
#include "depthwise.c"

int64_t thread_count(void)
{
    return omp_get_max_threads();
}
