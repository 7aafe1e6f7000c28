/* Convolutions of 3 x 3 with groups, float32 on a CPU: stride 1, zeros around the map, so that the
 * result has its size.
 *
 * A plane, one channel of one image, is copied row by row with one 0 between two rows, which is the
 * padding of both: what a tap of the kernel reads is then the plane from another place on, without
 * a case for the edges. A row of the result has one number too many, which is left out or is
 * multiplied by 0. Sums are kept in registers: four channels of the result by up to three vectors
 * of it, or for the weights' gradient by the three taps of a row.
 *
 * Letters: B images, G groups, C D channels of a group in and out, H W map, S = W + 1 the step from
 * row to row, n vectors in a plane of the result.
 */
#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define CHANNELS 4
#define TAPS 9
#define CACHED 8192 /* numbers of planes that are taken together */
#define UNROLL _Pragma("GCC unroll 4")
#define INLINE static inline __attribute__((always_inline))

#ifdef __AVX__ /* else each product would read the vector anew */
#define KEEP_IN_REGISTER(x) __asm__("" : "+v"(x))
#else
#define KEEP_IN_REGISTER(x)
#endif

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float four __attribute__((vector_size(16), aligned(4), may_alias));
typedef float eight __attribute__((vector_size(32), aligned(4), may_alias));

typedef struct {
    int64_t H, W, S, n, in, out; /* in, out: numbers of a plane, in what is copied */
} shape;

INLINE shape shape_of(int64_t H, int64_t W)
{
    shape s = {H, W, W + 1, (H * (W + 1) + LANES - 1) / LANES, 0, 0};
    s.out = s.n * LANES;
    s.in = s.out + 2 * s.S + 2; /* from the last number of the result to what its last tap reads */
    return s;
}

INLINE int64_t blocks(int64_t channels)
{
    return (channels + CHANNELS - 1) / CHANNELS;
}

/* W numbers, nothing beside them; the last vector may overlap the one before. */
INLINE void copy_row(int64_t W, const float *restrict from, float *restrict to)
{
#define COPY(type, lanes)                                                                          \
    if (W >= lanes) {                                                                              \
        for (int64_t i = 0; i < W - lanes; i += lanes)                                             \
            *(type *)(to + i) = *(const type *)(from + i);                                         \
        *(type *)(to + W - lanes) = *(const type *)(from + W - lanes);                             \
        return;                                                                                    \
    }
    COPY(vector, LANES)
    COPY(eight, 8)
    COPY(four, 4)
#undef COPY
    for (int64_t i = 0; i < W; i++)
        to[i] = from[i];
}

/* Rows of W numbers that are `from_step` apart, to rows that are `to_step` apart. */
INLINE void copy_plane(shape s, const float *from, int64_t from_step, float *to, int64_t to_step)
{
    for (int64_t y = 0; y < s.H; y++)
        copy_row(s.W, from + y * from_step, to + y * to_step);
}

/* The weights of a group [D, C, 9] as [D / 4, C, 9, 4], with zeros where D has no multiple of 4; or,
 * for the gradient of the input, whose channels are C: as [C / 4, D, 9, 4], turned round. */
static void order_weights(int64_t C, int64_t D, int64_t turned, const float *w, float *ordered)
{
    int64_t in = turned ? D : C, out = turned ? C : D;
    for (int64_t block = 0; block < blocks(out); block++)
        for (int64_t c = 0; c < in; c++)
            for (int64_t tap = 0; tap < TAPS; tap++)
                for (int64_t i = 0; i < CHANNELS; i++, ordered++) {
                    int64_t d = block * CHANNELS + i;
                    *ordered = d >= out ? 0.0f
                             : turned   ? w[(c * C + d) * TAPS + TAPS - 1 - tap]
                                        : w[(d * C + c) * TAPS + tap];
                }
}

/* `count` vectors of four channels of the result. */
INLINE void convolve_vectors(const int count, shape s, int64_t C, const float *x, const float *w,
                             const float *first, float *y)
{
    vector sums[CHANNELS][3];
    UNROLL
    for (int d = 0; d < CHANNELS; d++)
        UNROLL
        for (int i = 0; i < count; i++)
            sums[d][i] = first[d] - (vector){0};
    for (int64_t c = 0; c < C; c++, x += s.in)
        for (int ky = 0; ky < 3; ky++)
            UNROLL
            for (int kx = 0; kx < 3; kx++, w += CHANNELS) {
                vector values[3];
                UNROLL
                for (int i = 0; i < count; i++) {
                    values[i] = *(const vector *)(x + ky * s.S + kx + i * LANES);
                    KEEP_IN_REGISTER(values[i]);
                }
                UNROLL
                for (int d = 0; d < CHANNELS; d++)
                    UNROLL
                    for (int i = 0; i < count; i++)
                        sums[d][i] += values[i] * w[d];
            }
    UNROLL
    for (int d = 0; d < CHANNELS; d++)
        UNROLL
        for (int i = 0; i < count; i++)
            *(vector *)(y + d * s.out + i * LANES) = sums[d][i];
}

/* Four channels of the result, of the copied planes x of a group. */
static void convolve_block(shape s, int64_t C, const float *x, const float *w, const float *first,
                           float *y)
{
    for (int64_t i = 0; i < s.n;) {
        int64_t left = s.n - i;
        const float *from = x + i * LANES;
        float *to = y + i * LANES;
        if (left == 3 || left > 4) {
            convolve_vectors(3, s, C, from, w, first, to);
            i += 3;
        } else if (left > 1) {
            convolve_vectors(2, s, C, from, w, first, to);
            i += 2;
        } else {
            convolve_vectors(1, s, C, from, w, first, to);
            i += 1;
        }
    }
}

/* Numbers that `convolution` needs besides: the ordered weights, and for each thread the planes of a
 * group and of a block of the result. */
int64_t convolution_scratch(int64_t threads, int64_t G, int64_t C, int64_t D, int64_t H, int64_t W)
{
    shape s = shape_of(H, W);
    return G * blocks(D) * CHANNELS * C * TAPS + threads * (C * s.in + CHANNELS * s.out);
}

/* y [B, G D, H, W] of x [B, G C, H, W], w [G D, C, 3, 3], bias [G D] or NULL. Or, turned, from the
 * gradient x [B, G C, H, W] of a result that of its input, y [B, G D, H, W]; w is [G C, D, 3, 3]. */
void convolution(int64_t threads, int64_t B, int64_t G, int64_t C, int64_t D, int64_t H, int64_t W,
                 int64_t turned, const float *x, const float *w, const float *bias, float *scratch,
                 float *y)
{
    shape s = shape_of(H, W);
    int64_t step = blocks(D) * CHANNELS * C * TAPS, size = C * s.in + CHANNELS * s.out;
    float *ordered = scratch, *room = scratch + G * step;
    for (int64_t g = 0; g < G; g++)
        order_weights(turned ? D : C, turned ? C : D, turned, w + g * C * D * TAPS,
                      ordered + g * step);
    _Pragma("omp parallel for schedule(static, 1) if (B * G * D * H * W > LARGE)")
    for (int64_t part = 0; part < threads; part++) {
        float *planes = room + part * size, *result = planes + C * s.in;
        memset(planes, 0, 4 * size);
        for (int64_t item = B * G * part / threads; item < B * G * (part + 1) / threads; item++) {
            int64_t g = item % G;
            const float *from = x + item * C * H * W;
            float *to = y + item * D * H * W;
            for (int64_t c = 0; c < C; c++)
                copy_plane(s, from + c * H * W, W, planes + c * s.in + s.S + 1, s.S);
            for (int64_t d = 0; d < D; d += CHANNELS) {
                int64_t count = D - d < CHANNELS ? D - d : CHANNELS;
                float first[CHANNELS] = {0};
                if (bias)
                    memcpy(first, bias + g * D + d, 4 * count);
                convolve_block(s, C, planes, ordered + g * step + d * C * TAPS, first, result);
                for (int64_t i = 0; i < count; i++)
                    copy_plane(s, result + i * s.out, s.S, to + (d + i) * H * W, W);
            }
        }
    }
}

/* Adds to the sums [4, 3] the products of four channels of dy with the three taps of a row of x;
 * dy, x: their planes of `images` images, in `dy` the channels `apart`. */
static void add_products(shape s, int64_t images, const float *x, const float *dy, int64_t apart,
                         vector *totals)
{
    vector sums[CHANNELS][3];
    UNROLL
    for (int d = 0; d < CHANNELS; d++)
        UNROLL
        for (int kx = 0; kx < 3; kx++)
            sums[d][kx] = totals[3 * d + kx];
    for (int64_t b = 0; b < images; b++, x += s.in, dy += s.out)
        for (int64_t i = 0; i < s.out; i += LANES) {
            vector values[3];
            UNROLL
            for (int kx = 0; kx < 3; kx++) {
                values[kx] = *(const vector *)(x + i + kx);
                KEEP_IN_REGISTER(values[kx]);
            }
            UNROLL
            for (int d = 0; d < CHANNELS; d++) {
                vector gradient = *(const vector *)(dy + d * apart + i);
                KEEP_IN_REGISTER(gradient);
                UNROLL
                for (int kx = 0; kx < 3; kx++)
                    sums[d][kx] += values[kx] * gradient;
            }
        }
    UNROLL
    for (int d = 0; d < CHANNELS; d++)
        UNROLL
        for (int kx = 0; kx < 3; kx++)
            totals[3 * d + kx] = sums[d][kx];
}

INLINE float sum_of(const vector *v)
{
    const float *p = (const float *)v;
    float sums[LANES / 2];
    for (int i = 0; i < LANES / 2; i++)
        sums[i] = p[i] + p[i + LANES / 2];
    for (int step = LANES / 4; step; step /= 2)
        for (int i = 0; i < step; i++)
            sums[i] += sums[i + step];
    return sums[0];
}

/* How many images are taken together. */
INLINE int64_t images_of(shape s, int64_t B, int64_t C, int64_t D)
{
    int64_t images = CACHED / (C * s.in + blocks(D) * CHANNELS * s.out);
    return images < 1 ? 1 : images < B ? images : B;
}

/* Numbers that each thread of `convolution_gradient` needs besides. */
int64_t convolution_gradient_scratch(int64_t B, int64_t C, int64_t D, int64_t H, int64_t W)
{
    shape s = shape_of(H, W);
    int64_t wide = blocks(D) * CHANNELS;
    return images_of(s, B, C, D) * (C * s.in + wide * s.out) + wide * (C * TAPS + 1) * LANES;
}

/* The gradients dw [G D, C, 3, 3] and db [G D] from x [B, G C, H, W] and dy [B, G D, H, W]. A group
 * is one thread's. */
void convolution_gradient(int64_t threads, int64_t B, int64_t G, int64_t C, int64_t D, int64_t H,
                          int64_t W, const float *x, const float *dy, float *scratch,
                          float *dw, float *db)
{
    shape s = shape_of(H, W);
    int64_t together = images_of(s, B, C, D), wide = blocks(D) * CHANNELS;
    int64_t size = convolution_gradient_scratch(B, C, D, H, W);
    int64_t x_step = together * s.in, dy_step = together * s.out;
    _Pragma("omp parallel for schedule(static, 1) if (B * G * D * H * W > LARGE)")
    for (int64_t part = 0; part < threads; part++) {
        float *xs = scratch + part * size, *dys = xs + C * x_step;
        vector *sums = (vector *)(dys + wide * dy_step), *of_bias = sums + wide * C * TAPS;
        memset(xs, 0, 4 * size);
        for (int64_t g = G * part / threads; g < G * (part + 1) / threads; g++) {
            memset(sums, 0, 4 * wide * (C * TAPS + 1) * LANES);
            for (int64_t b = 0; b < B; b += together) {
                int64_t images = B - b < together ? B - b : together;
                for (int64_t i = 0; i < images; i++) {
                    const float *xi = x + ((b + i) * G + g) * C * H * W;
                    const float *di = dy + ((b + i) * G + g) * D * H * W;
                    for (int64_t c = 0; c < C; c++)
                        copy_plane(s, xi + c * H * W, W, xs + c * x_step + i * s.in + s.S + 1, s.S);
                    for (int64_t d = 0; d < D; d++)
                        copy_plane(s, di + d * H * W, W, dys + d * dy_step + i * s.out, s.S);
                }
                for (int64_t d = 0; d < wide; d += CHANNELS)
                    for (int64_t c = 0; c < C; c++)
                        for (int64_t ky = 0; ky < 3; ky++)
                            add_products(s, images, xs + c * x_step + ky * s.S, dys + d * dy_step,
                                         dy_step, sums + ((d * C + c * CHANNELS) * 3
                                                          + ky * CHANNELS) * 3);
                for (int64_t d = 0; d < D; d++)
                    for (int64_t i = 0; i < images * s.out; i += LANES)
                        of_bias[d] += *(const vector *)(dys + d * dy_step + i);
            }
            for (int64_t d = 0; d < D; d++) {
                const vector *own = sums + (d / CHANNELS * C * 3) * CHANNELS * 3
                                  + d % CHANNELS * 3;
                for (int64_t row = 0; row < C * 3; row++)
                    for (int64_t kx = 0; kx < 3; kx++)
                        dw[(g * D + d) * C * TAPS + row * 3 + kx] =
                            sum_of(own + row * CHANNELS * 3 + kx);
                db[g * D + d] = sum_of(of_bias + d);
            }
        }
    }
}
