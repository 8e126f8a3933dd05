// The elementwise work between a block's matmuls, each kernel one pass over memory. Compiled once per machine by models/kernels.py,
// which also holds the same arithmetic in torch: tests compare the two. All sums are float32; E is float or bf16.
//
// T tokens, D width of a state, F width of the MLP, H query heads, K key-value heads, G = H / K, W width of a head,
// n tokens of a piece, S tokens it sees.

#include "numbers.hpp"

static inline float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

template <class E>
static void rms_norm(const E* x, const E* w, E* y, float* scale, i64 T, i64 D, float epsilon) {
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < T; t++) {
        const E* row = x + t * D;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (i64 d = 0; d < D; d++) sum += load(row[d]) * load(row[d]);
        const float s = 1.0f / std::sqrt(sum / float(D) + epsilon);
        scale[t] = s;
#pragma omp simd
        for (i64 d = 0; d < D; d++) y[t * D + d] = narrow<E>(load(narrow<E>(load(row[d]) * s)) * load(w[d]));
    }
}

// out = through + (g w - n mean(g w n)) * scale  with n = x * scale; `through` is the gradient that went around the norm, if any.
template <class E>
static void rms_norm_back(const E* g, const E* x, const float* scale, const E* w, const E* through, E* out, i64 T, i64 D) {
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < T; t++) {
        const E *gt = g + t * D, *xt = x + t * D, *around = through ? through + t * D : nullptr;
        const float s = scale[t];
        float inner = 0;
#pragma omp simd reduction(+ : inner)
        for (i64 d = 0; d < D; d++) inner += load(gt[d]) * load(w[d]) * load(xt[d]) * s;
        inner /= float(D);
        if (around) {
#pragma omp simd
            for (i64 d = 0; d < D; d++)
                out[t * D + d] = narrow<E>(load(around[d]) + (load(gt[d]) * load(w[d]) - load(xt[d]) * s * inner) * s);
        } else {
#pragma omp simd
            for (i64 d = 0; d < D; d++) out[t * D + d] = narrow<E>((load(gt[d]) * load(w[d]) - load(xt[d]) * s * inner) * s);
        }
    }
}

template <class E>
static void swiglu(const E* gate_up, E* act, i64 T, i64 F) {
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < T; t++) {
        const E *gate = gate_up + 2 * t * F, *up = gate + F;
#pragma omp simd
        for (i64 f = 0; f < F; f++) {
            const float a = load(gate[f]);
            act[t * F + f] = narrow<E>(a * sigmoid(a) * load(up[f]));
        }
    }
}

// `d` holds the gradient of act and receives act itself; the gradient of gate and up goes to d_gate_up.
template <class E>
static void swiglu_back(E* d, const E* gate_up, E* d_gate_up, i64 T, i64 F) {
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < T; t++) {
        const E *gate = gate_up + 2 * t * F, *up = gate + F;
        E *dgate = d_gate_up + 2 * t * F, *dup = dgate + F, *dt = d + t * F;
#pragma omp simd
        for (i64 f = 0; f < F; f++) {
            const float a = load(gate[f]), u = load(up[f]), g = load(dt[f]), s = sigmoid(a), silu = a * s;
            dgate[f] = narrow<E>(g * u * (s + silu * (1.0f - s)));
            dup[f] = narrow<E>(g * silu);
            dt[f] = narrow<E>(silu * u);
        }
    }
}

// qkv [T, (H + 2K) W] -> q, piece by piece [K, G n, W], turned and scaled; k, turned, and v [K, T, W].
// Token t lies in the piece that begins at first[t] and has count[t] tokens.
template <class E>
static void split_heads(const E* qkv, const E* cos, const E* sin, const i64* first, const i64* count, E* q, E* k, E* v, i64 T, i64 H,
                        i64 K, i64 W, float scaling) {
    const i64 half = W / 2;
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < T; t++) {
        const E *row = qkv + t * (H + 2 * K) * W, *c = cos + t * W, *s = sin + t * W;
        for (i64 h = 0; h < H + K; h++) {
            const E* in = row + h * W;
            E* out = h < H ? q + (first[t] * H + h * count[t] + t - first[t]) * W : k + ((h - H) * T + t) * W;
            const float by = h < H ? scaling : 1.0f;
#pragma omp simd
            for (i64 i = 0; i < half; i++) {
                const float a = load(in[i]), b = load(in[i + half]);
                out[i] = narrow<E>((a * load(c[i]) - b * load(s[i])) * by);
                out[i + half] = narrow<E>((b * load(c[i + half]) + a * load(s[i + half])) * by);
            }
        }
        for (i64 h = 0; h < K; h++) std::memcpy(v + (h * T + t) * W, row + (H + K + h) * W, W * sizeof(E));
    }
}

// The way back of split_heads: gradients of q (by piece), k and v -> gradient of qkv.
template <class E>
static void join_heads(const E* dq, const E* dk, const E* dv, const E* cos, const E* sin, const i64* first, const i64* count, E* dqkv,
                       i64 T, i64 H, i64 K, i64 W, float scaling) {
    const i64 half = W / 2;
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < T; t++) {
        E* row = dqkv + t * (H + 2 * K) * W;
        const E *c = cos + t * W, *s = sin + t * W;
        for (i64 h = 0; h < H + K; h++) {
            const E* g = h < H ? dq + (first[t] * H + h * count[t] + t - first[t]) * W : dk + ((h - H) * T + t) * W;
            E* out = row + h * W;
            const float by = h < H ? scaling : 1.0f;
#pragma omp simd
            for (i64 i = 0; i < half; i++) {
                const float a = load(g[i]), b = load(g[i + half]);
                out[i] = narrow<E>((a * load(c[i]) + b * load(s[i + half])) * by);
                out[i + half] = narrow<E>((b * load(c[i + half]) - a * load(s[i])) * by);
            }
        }
        for (i64 h = 0; h < K; h++) std::memcpy(row + (H + K + h) * W, dv + (h * T + t) * W, W * sizeof(E));
    }
}

// [pieces: H, n, W] -> [T, H W]
template <class E>
static void from_pieces(const E* pieces, const i64* first, const i64* count, E* out, i64 T, i64 H, i64 W) {
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < T; t++)
        for (i64 h = 0; h < H; h++)
            std::memcpy(out + (t * H + h) * W, pieces + (first[t] * H + h * count[t] + t - first[t]) * W, W * sizeof(E));
}

// Gradient of the attention's output [T, H W] -> the same by pieces, and delta = rowsum(g * out) in the order of the pieces' rows.
template <class E>
static void to_pieces(const E* g, const E* out, const i64* first, const i64* count, E* pieces, float* delta, i64 T, i64 H, i64 W) {
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < T; t++)
        for (i64 h = 0; h < H; h++) {
            const i64 row = first[t] * H + h * count[t] + t - first[t];
            const E *a = g + (t * H + h) * W, *b = out + (t * H + h) * W;
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (i64 i = 0; i < W; i++) sum += load(a[i]) * load(b[i]);
            delta[row] = sum;
            std::memcpy(pieces + row * W, a, W * sizeof(E));
        }
}

// Scores [rows, S] become probabilities in place; row r is token r % n of the piece and sees the first S - n + r % n + 1 columns.
// Keeps log(sum(exp)) of each row.
template <class E>
static void causal_softmax(E* scores, float* logsum, i64 rows, i64 n, i64 S) {
#pragma omp parallel for schedule(static)
    for (i64 r = 0; r < rows; r++) {
        E* row = scores + r * S;
        const i64 seen = S - n + r % n + 1;
        float top = -INFINITY, sum = 0;
#pragma omp simd reduction(max : top)
        for (i64 j = 0; j < seen; j++) top = load(row[j]) > top ? load(row[j]) : top;
#pragma omp simd reduction(+ : sum)
        for (i64 j = 0; j < seen; j++) sum += fast_exp(load(row[j]) - top);
        const float shift = top + std::log(sum);
        logsum[r] = shift;
#pragma omp simd
        for (i64 j = 0; j < seen; j++) row[j] = narrow<E>(fast_exp(load(row[j]) - shift));
        std::memset((void*)(row + seen), 0, (S - seen) * sizeof(E));
    }
}

// Scores become probabilities again, and their gradient dp becomes that of the scores: ds = p (dp - delta).
template <class E>
static void causal_softmax_back(E* scores, E* dp, const float* logsum, const float* delta, i64 rows, i64 n, i64 S) {
#pragma omp parallel for schedule(static)
    for (i64 r = 0; r < rows; r++) {
        E *s = scores + r * S, *d = dp + r * S;
        const i64 seen = S - n + r % n + 1;
        const float shift = logsum[r], inner = delta[r];
#pragma omp simd
        for (i64 j = 0; j < seen; j++) {
            const float p = fast_exp(load(s[j]) - shift);
            s[j] = narrow<E>(p);
            d[j] = narrow<E>(p * (load(d[j]) - inner));
        }
        std::memset((void*)(s + seen), 0, (S - seen) * sizeof(E));
        std::memset((void*)(d + seen), 0, (S - seen) * sizeof(E));
    }
}

// One query looks at S keys and values that lie at[0] ... at[S - 1], each `step` numbers after the one before. WIDTH, where it is not 0, is
// W known beforehand: then a head stays in registers.
template <class E, i64 WIDTH>
static void look(const E* query, const E* keys, const E* values, const int32_t* at, i64 S, i64 step, i64 width, float softcap,
                 float* scores, float* sum, E* out) {
    const i64 W = WIDTH ? WIDTH : width;
    float top = -INFINITY, total = 0;
    for (i64 j = 0; j < S; j++) {
        const E* key = keys + at[j] * step;
        float dot = 0;
#pragma omp simd reduction(+ : dot)
        for (i64 i = 0; i < W; i++) dot += load(query[i]) * load(key[i]);
        scores[j] = softcap > 0 ? softcap * std::tanh(dot / softcap) : dot;
        top = scores[j] > top ? scores[j] : top;
    }
#pragma omp simd reduction(+ : total)
    for (i64 j = 0; j < S; j++) total += scores[j] = fast_exp(scores[j] - top);
    for (i64 i = 0; i < W; i++) sum[i] = 0;
    for (i64 j = 0; j < S; j++) {
        const E* value = values + at[j] * step;
        const float p = scores[j];
#pragma omp simd
        for (i64 i = 0; i < W; i++) sum[i] += p * load(value[i]);
    }
    for (i64 i = 0; i < W; i++) out[i] = narrow<E>(sum[i] / total);
}

// One token of each of B rows looks at its row's tokens, whose keys and values [P, K, W] lie at any places: those of row b are the first
// count[b] of place [B, L]. q [B, H, W] is scaled. softcap and window: 0 is none.
// Heads are the outer loop, so that rows which begin alike find their common keys in the cache.
template <class E>
static void paged(const E* q, const E* keys, const E* values, const int32_t* place, const i64* count, E* out, i64 B, i64 L, i64 H,
                  i64 K, i64 W, float softcap, i64 window) {
    auto one = W == 32 ? look<E, 32> : W == 64 ? look<E, 64> : W == 128 ? look<E, 128> : look<E, 0>;
#pragma omp parallel
    {
        float* scratch = static_cast<float*>(std::malloc((L + W) * sizeof(float)));
#pragma omp for schedule(dynamic)
        for (i64 item = 0; item < H * B; item++) {
            const i64 h = item / B, b = item % B, k = h / (H / K);
            const i64 from = window > 0 && count[b] > window ? count[b] - window : 0;
            one(q + (b * H + h) * W, keys + k * W, values + k * W, place + b * L + from, count[b] - from, K * W, W, softcap,
                scratch, scratch + L, out + (b * H + h) * W);
        }
        std::free(scratch);
    }
}

// A float's lower 16 bits, signed: added to those of x, or taken off and kept. Halves are rounded up, so that the rest fits 16 bits.
static inline void add_bits(float* x, const int16_t* lower, i64 n) {
    for (i64 i = 0; i < n; i++) {
        int32_t bits;
        __builtin_memcpy(&bits, x + i, 4);
        bits += lower[i];
        __builtin_memcpy(x + i, &bits, 4);
    }
}

static inline void take_bits(float* x, int16_t* lower, i64 n) {
    for (i64 i = 0; i < n; i++) {
        int32_t bits;
        __builtin_memcpy(&bits, x + i, 4);
        const int32_t upper = (bits + 0x8000) & ~0xffff;
        lower[i] = int16_t(bits - upper);
        __builtin_memcpy(x + i, &upper, 4);
    }
}

// One AdamW update of n weights whose moments lie in bytes (engine/moments.py says how), in one pass. `lower` is what a bf16 weight leaves out
// of its fp32 master, null where the weight is the master; `g` or, summed up in fp32, `sum` is the gradient. The second moment's bytes say its root.
template <class E>
static void adamw8bit(E* w, int16_t* lower, const E* g, const float* sum, uint8_t* code1, float* scale1, const float* level1,
                      const uint8_t* table1, uint8_t* code2, float* scale2, const float* level2, const uint8_t* table2, const float* divisor,
                      i64 n, float step, float keep, float beta1, float beta2, float root_bias, float epsilon) {
    constexpr i64 BLOCK = 256;
    const float given = 1.0f / *divisor;
#pragma omp parallel for schedule(static)
    for (i64 b = 0; b < (n + BLOCK - 1) / BLOCK; b++) {
        const i64 start = b * BLOCK, size = n - start < BLOCK ? n - start : BLOCK;
        float x[BLOCK], gradient[BLOCK], m[BLOCK], root[BLOCK], most1 = 0, most2 = 0;
        for (i64 i = size; i < BLOCK; i++) m[i] = root[i] = 0;
        for (i64 i = 0; i < size; i++) x[i] = load(w[start + i]);
        if (lower) add_bits(x, lower + start, size);
        if (sum)
            for (i64 i = 0; i < size; i++) gradient[i] = sum[start + i] * given;
        else
            for (i64 i = 0; i < size; i++) gradient[i] = load(g[start + i]) * given;
        const float s1 = scale1[b], s2 = scale2[b];
        for (i64 i = 0; i < size; i++) m[i] = level1[code1[start + i]] * s1;
        for (i64 i = 0; i < size; i++) root[i] = level2[code2[start + i]] * s2;
#pragma omp simd reduction(max : most1, most2)
        for (i64 i = 0; i < size; i++) {
            m[i] = beta1 * m[i] + (1 - beta1) * gradient[i];
            root[i] = std::sqrt(beta2 * (root[i] * root[i]) + (1 - beta2) * (gradient[i] * gradient[i]));
            x[i] = x[i] * keep - step * m[i] / (root[i] / root_bias + epsilon);
            const float length = std::fabs(m[i]);
            most1 = length > most1 ? length : most1;
            most2 = root[i] > most2 ? root[i] : most2;
        }
        scale1[b] = most1;
        scale2[b] = most2;
        const float d1 = most1 > 1.17549435e-38f ? most1 : 1.17549435e-38f, d2 = most2 > 1.17549435e-38f ? most2 : 1.17549435e-38f;
        bf16 place1[BLOCK], place2[BLOCK];
#pragma omp simd
        for (i64 i = 0; i < BLOCK; i++) {
            place1[i] = narrow<bf16>(m[i] / d1);
            place2[i] = narrow<bf16>(root[i] / d2);
        }
        for (i64 i = 0; i < BLOCK; i++) {  // the last block's padding keeps its zeros
            code1[start + i] = table1[place1[i]];
            code2[start + i] = table2[place2[i]];
        }
        if (lower) take_bits(x, lower + start, size);
        for (i64 i = 0; i < size; i++) w[start + i] = narrow<E>(x[i]);
    }
}

#define EXPORT(E, NAME)                                                                                                                 \
    void rms_norm_##NAME(const E* x, const E* w, E* y, float* s, i64 T, i64 D, float e) { rms_norm(x, w, y, s, T, D, e); }              \
    void rms_norm_back_##NAME(const E* g, const E* x, const float* s, const E* w, const E* through, E* out, i64 T, i64 D) {             \
        rms_norm_back(g, x, s, w, through, out, T, D);                                                                                  \
    }                                                                                                                                   \
    void swiglu_##NAME(const E* gate_up, E* act, i64 T, i64 F) { swiglu(gate_up, act, T, F); }                                          \
    void swiglu_back_##NAME(E* d, const E* gate_up, E* out, i64 T, i64 F) { swiglu_back(d, gate_up, out, T, F); }                       \
    void split_heads_##NAME(const E* qkv, const E* c, const E* s, const i64* first, const i64* count, E* q, E* k, E* v, i64 T, i64 H,   \
                            i64 K, i64 W, float scaling) {                                                                              \
        split_heads(qkv, c, s, first, count, q, k, v, T, H, K, W, scaling);                                                             \
    }                                                                                                                                   \
    void join_heads_##NAME(const E* dq, const E* dk, const E* dv, const E* c, const E* s, const i64* first, const i64* count, E* out,   \
                           i64 T, i64 H, i64 K, i64 W, float scaling) {                                                                 \
        join_heads(dq, dk, dv, c, s, first, count, out, T, H, K, W, scaling);                                                           \
    }                                                                                                                                   \
    void from_pieces_##NAME(const E* p, const i64* first, const i64* count, E* out, i64 T, i64 H, i64 W) {                              \
        from_pieces(p, first, count, out, T, H, W);                                                                                     \
    }                                                                                                                                   \
    void to_pieces_##NAME(const E* g, const E* out, const i64* first, const i64* count, E* p, float* delta, i64 T, i64 H, i64 W) {      \
        to_pieces(g, out, first, count, p, delta, T, H, W);                                                                             \
    }                                                                                                                                   \
    void causal_softmax_##NAME(E* scores, float* logsum, i64 rows, i64 n, i64 S) { causal_softmax(scores, logsum, rows, n, S); }        \
    void causal_softmax_back_##NAME(E* scores, E* dp, const float* logsum, const float* delta, i64 rows, i64 n, i64 S) {                \
        causal_softmax_back(scores, dp, logsum, delta, rows, n, S);                                                                     \
    }                                                                                                                                   \
    void paged_##NAME(const E* q, const E* keys, const E* values, const int32_t* place, const i64* count, E* out, i64 B, i64 L, i64 H,  \
                      i64 K, i64 W, float softcap, i64 window) {                                                                        \
        paged(q, keys, values, place, count, out, B, L, H, K, W, softcap, window);                                                      \
    }                                                                                                                                   \
    void adamw8bit_##NAME(E* w, int16_t* lower, const E* g, const float* sum, uint8_t* code1, float* scale1, const float* level1,       \
                          const uint8_t* table1, uint8_t* code2, float* scale2, const float* level2, const uint8_t* table2,             \
                          const float* divisor, i64 n, float step, float keep, float beta1, float beta2, float root_bias,               \
                          float epsilon) {                                                                                              \
        adamw8bit(w, lower, g, sum, code1, scale1, level1, table1, code2, scale2, level2, table2, divisor, n, step, keep, beta1, beta2, \
                  root_bias, epsilon);                                                                                                  \
    }

extern "C" {
EXPORT(bf16, bfloat16)
EXPORT(float, float32)
}
