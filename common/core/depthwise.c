/* x plus convolutions of k x k, k odd, of each channel by itself, on maps with their channels last, and zeros around
 * them; layers/fast/kernels.py calls them. convolutions.c is included before.
 *
 * Vectors are of channels: LANES of them of one map are copied to have their zeros around them. Up
 * to STRIP numbers beside each other in a row are computed together, so each of the kernel's is read
 * once for them.
 *
 * Letters: B images, H W map, C channels, k side of the kernel.
 */
#define STRIP 7

typedef struct {
    int64_t H, W, C, k, w, padded; /* w: W with the zeros; padded: vectors of a map with them */
} map;

INLINE map map_of(int64_t H, int64_t W, int64_t C, int64_t k)
{
    map m = {H, W, C, k, W + k - 1, (H + k - 1) * (W + k - 1)};
    return m;
}

/* The channels from `first` on of a map x [H, W, C] into the middle of `to`, or at its start. */
INLINE void take_channels(map m, int64_t first, const float *x, int64_t width, int64_t edge,
                          vector *to)
{
    int64_t count = MINIMUM(LANES, m.C - first);
    for (int64_t row = 0; row < m.H; row++)
        for (int64_t column = 0; column < m.W; column++) {
            const float *from = x + (row * m.W + column) * m.C + first;
            vector *at = to + (row + edge) * width + column + edge;
            if (count == LANES)
                *at = *(const vector *)from;
            else
                memcpy(at, from, 4 * count);
        }
}

/* The kernels w [C, k, k] of the channels from `first` on as vectors [k, k], or turned round; with 1
 * added in their middle, which adds what is convolved to the result. */
INLINE void take_kernels(map m, int64_t first, int64_t turned, const float *w, vector *to)
{
    int64_t taps = m.k * m.k, count = MINIMUM(LANES, m.C - first);
    float *numbers = (float *)to;
    for (int64_t tap = 0; tap < taps; tap++)
        for (int64_t i = 0; i < LANES; i++)
            numbers[tap * LANES + i] =
                i < count ? w[(first + i) * taps + (turned ? taps - 1 - tap : tap)]
                                + (tap == taps / 2)
                          : 0.0f;
}

/* `count` numbers of a row of the result. */
INLINE void convolve_strip(const int count, map m, const vector *x, const vector *w, vector bias,
                           int64_t channels, float *y)
{
    vector sums[STRIP];
    _Pragma("GCC unroll 7")
    for (int i = 0; i < count; i++)
        sums[i] = bias;
    for (int64_t ky = 0; ky < m.k; ky++)
        for (int64_t kx = 0; kx < m.k; kx++) {
            vector tap = w[ky * m.k + kx];
            const vector *from = x + ky * m.w + kx;
            _Pragma("GCC unroll 7")
            for (int i = 0; i < count; i++)
                sums[i] += from[i] * tap;
        }
    _Pragma("GCC unroll 7")
    for (int i = 0; i < count; i++) {
        if (channels == LANES)
            *(vector *)(y + i * m.C) = sums[i];
        else
            memcpy(y + i * m.C, &sums[i], 4 * channels);
    }
}

/* Numbers that each thread needs besides, in either function. */
int64_t depthwise_scratch(int64_t H, int64_t W, int64_t C, int64_t k)
{
    map m = map_of(H, W, C, k);
    return (m.padded + H * W + k * k + 1) * LANES;
}

/* y = x + convolution of x [B, H, W, C], kernels w [C, k, k] and bias [C] or NULL. Turned, from the
 * gradient x of a result that of its input. */
void depthwise(int64_t threads, int64_t B, int64_t H, int64_t W, int64_t C, int64_t k,
               int64_t turned, const float *x, const float *w, const float *bias, float *scratch,
               float *y)
{
    map m = map_of(H, W, C, k);
    int64_t size = depthwise_scratch(H, W, C, k), parts = (C + LANES - 1) / LANES;
    _Pragma("omp parallel for schedule(static, 1) if (B * H * W * C > LARGE)")
    for (int64_t part = 0; part < threads; part++) {
        vector *padded = (vector *)(scratch + part * size), *taps = padded + m.padded + H * W;
        memset(padded, 0, 4 * size);
        int64_t before = -1;
        for (int64_t item = B * parts * part / threads; item < B * parts * (part + 1) / threads;
             item++) {
            int64_t first = item / B * LANES, b = item % B, count = MINIMUM(LANES, C - first);
            vector start = {0};
            if (bias)
                memcpy(&start, bias + first, 4 * count);
            if (first != before) {
                take_kernels(m, first, turned, w, taps);
                memset(padded, 0, sizeof *padded * m.padded);
            }
            before = first;
            take_channels(m, first, x + b * H * W * C, m.w, k / 2, padded);
            for (int64_t row = 0; row < H; row++) {
                float *to = y + ((b * H + row) * W) * C + first;
                const vector *from = padded + row * m.w;
                int64_t column = 0;
                for (; column + STRIP <= W; column += STRIP)
                    convolve_strip(STRIP, m, from + column, taps, start, count, to + column * C);
                for (; column < W; column++)
                    convolve_strip(1, m, from + column, taps, start, count, to + column * C);
            }
        }
    }
}

/* Adds to sums [k] of one row of the kernel the products of dy [H, W] with what its taps see. */
INLINE void add_row_products(const int k, map m, const vector *x, const vector *dy, vector *totals)
{
    vector sums[STRIP];
    _Pragma("GCC unroll 7")
    for (int kx = 0; kx < k; kx++)
        sums[kx] = totals[kx];
    for (int64_t row = 0; row < m.H; row++)
        for (int64_t column = 0; column < m.W; column++) {
            vector gradient = dy[row * m.W + column];
            const vector *from = x + row * m.w + column;
            _Pragma("GCC unroll 7")
            for (int kx = 0; kx < k; kx++)
                sums[kx] += from[kx] * gradient;
        }
    _Pragma("GCC unroll 7")
    for (int kx = 0; kx < k; kx++)
        totals[kx] = sums[kx];
}

/* The gradients dw [C, k, k] and db [C] from x and dy [B, H, W, C]. LANES channels are one thread's. */
void depthwise_gradient(int64_t threads, int64_t B, int64_t H, int64_t W, int64_t C, int64_t k,
                        const float *x, const float *dy, float *scratch, float *dw, float *db)
{
    map m = map_of(H, W, C, k);
    int64_t size = depthwise_scratch(H, W, C, k), parts = (C + LANES - 1) / LANES;
    _Pragma("omp parallel for schedule(static, 1) if (B * H * W * C > LARGE)")
    for (int64_t part = 0; part < threads; part++) {
        vector *padded = (vector *)(scratch + part * size), *gradient = padded + m.padded;
        vector *sums = gradient + H * W, *of_bias = sums + k * k;
        for (int64_t item = parts * part / threads; item < parts * (part + 1) / threads; item++) {
            int64_t first = item * LANES, count = MINIMUM(LANES, C - first);
            memset(padded, 0, 4 * size);
            for (int64_t b = 0; b < B; b++) {
                take_channels(m, first, x + b * H * W * C, m.w, k / 2, padded);
                take_channels(m, first, dy + b * H * W * C, W, 0, gradient);
                for (int64_t ky = 0; ky < k; ky++) {
                    if (k == STRIP)
                        add_row_products(STRIP, m, padded + ky * m.w, gradient, sums + ky * k);
                    else
                        for (int64_t kx = 0; kx < k; kx++)
                            add_row_products(1, m, padded + ky * m.w + kx, gradient,
                                             sums + ky * k + kx);
                }
                for (int64_t i = 0; i < H * W; i++)
                    *of_bias += gradient[i];
            }
            for (int64_t i = 0; i < count; i++) {
                for (int64_t tap = 0; tap < k * k; tap++)
                    dw[(first + i) * k * k + tap] = ((float *)(sums + tap))[i];
                db[first + i] = ((float *)of_bias)[i];
            }
        }
    }
}
