// Attention over a token tree in bf16, all pieces of a pack in one call, forward and backward (models/pieces.py has the same in torch).
//
// T keys, n tokens of a piece, S keys it sees (its own are the last n), K key-value heads, G query heads for each, W width of a head.
// What belongs to queries lies piece by piece, [K, G, n, W] each; keys and values lie [K, T, W]. All sums are float32.
//
// Products run on pairs: two bf16 next to each other along the sum, as one 32-bit word, the form in which the processor multiplies them.

#include "numbers.hpp"

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#include <immintrin.h>
#include <omp.h>

using u32 = uint32_t;

namespace {

constexpr i64 MOST_THREADS = 256;
constexpr i64 ROWS = 32;  // queries at a time: their scores stay in the cache; even, as rows are paired, too

template <class E>
struct Array {  // zeros at first; without C++'s own library, which a C compiler's driver does not link
    E* at = nullptr;

    Array() = default;
    Array(const Array&) = delete;
    ~Array() { std::free(at); }
    void take(i64 count) {
        std::free(at);
        at = static_cast<E*>(std::calloc(count > 0 ? count : 1, sizeof(E)));
    }
    E* data() { return at; }
    const E* data() const { return at; }
    E& operator[](i64 i) { return at[i]; }
};

struct Piece {
    i64 start, end, first, last;  // its tokens; its spans
    i64 n() const { return end - start; }
};

struct Tree {
    const Piece* pieces;
    const i64* spans;  // start and end of each
    i64 count;

    i64 seen(const Piece& piece) const {
        i64 sum = 0;
        for (i64 s = piece.first; s < piece.last; s++) sum += spans[2 * s + 1] - spans[2 * s];
        return sum;
    }
    i64 most() const {
        i64 top = 0;
        for (i64 i = 0; i < count; i++) top = seen(pieces[i]) > top ? seen(pieces[i]) : top;
        return top;
    }
};

i64 rounded(i64 x) { return (x + 15) / 16 * 16; }

// c[m, i] = sum over pairs p of a[m, p] * b[p, i], added to what is there if `add`. Pair (m, p) of a is at a[m * am + p * ap], rows of b and
// c are lb and lc apart. M rows, 16 V columns: all sums stay in registers.
template <int M, int V>
inline void tile(const u32* a, i64 am, i64 ap, const u32* b, i64 lb, i64 pairs, float* c, i64 lc, bool add) {
    __m512 sum[M][V];
#pragma GCC unroll 8
    for (int m = 0; m < M; m++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) sum[m][v] = add ? _mm512_loadu_ps(c + m * lc + 16 * v) : _mm512_setzero_ps();
    for (i64 p = 0; p < pairs; p++) {
        __m512i row[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) row[v] = _mm512_loadu_si512(b + p * lb + 16 * v);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) {
            const __m512i pair = _mm512_set1_epi32(int(a[m * am + p * ap]));
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) sum[m][v] = _mm512_dpbf16_ps(sum[m][v], (__m512bh)pair, (__m512bh)row[v]);
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; m++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) _mm512_storeu_ps(c + m * lc + 16 * v, sum[m][v]);
}

template <int V>
inline void column(i64 rows, const u32* a, i64 am, i64 ap, const u32* b, i64 lb, i64 pairs, float* c, i64 lc, bool add) {
    i64 m = 0;
    for (; m + 6 <= rows; m += 6) tile<6, V>(a + m * am, am, ap, b, lb, pairs, c + m * lc, lc, add);
    a += m * am;
    c += m * lc;
    switch (rows - m) {
        case 5: return tile<5, V>(a, am, ap, b, lb, pairs, c, lc, add);
        case 4: return tile<4, V>(a, am, ap, b, lb, pairs, c, lc, add);
        case 3: return tile<3, V>(a, am, ap, b, lb, pairs, c, lc, add);
        case 2: return tile<2, V>(a, am, ap, b, lb, pairs, c, lc, add);
        case 1: return tile<1, V>(a, am, ap, b, lb, pairs, c, lc, add);
    }
}

// See `tile`; any number of rows, columns a multiple of 16.
void multiply(i64 rows, i64 columns, const u32* a, i64 am, i64 ap, const u32* b, i64 lb, i64 pairs, float* c, i64 lc, bool add) {
    i64 at = 0;
    for (; at + 64 <= columns; at += 64) column<4>(rows, a, am, ap, b + at, lb, pairs, c + at, lc, add);
    switch ((columns - at) / 16) {
        case 3: return column<3>(rows, a, am, ap, b + at, lb, pairs, c + at, lc, add);
        case 2: return column<2>(rows, a, am, ap, b + at, lb, pairs, c + at, lc, add);
        case 1: return column<1>(rows, a, am, ap, b + at, lb, pairs, c + at, lc, add);
    }
}

__m512i paired(__m256i low, __m256i high) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
}

// The keys (or values) a piece sees, [S, W] bf16 at x: as columns, pairs along W: to[W / 2][wide], zero behind S.
void as_columns(const bf16* x, const Tree& tree, const Piece& piece, i64 W, u32* to, i64 wide) {
    const __m512i every = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32(int(W / 2)));
    i64 at = 0;
    for (i64 s = piece.first; s < piece.last; s++)
        for (i64 start = tree.spans[2 * s], end = tree.spans[2 * s + 1]; start < end; start += 16) {
            const i64 count = end - start < 16 ? end - start : 16;
            const __mmask16 mask = __mmask16((1u << count) - 1);
            const u32* from = reinterpret_cast<const u32*>(x + start * W);
            for (i64 w = 0; w < W / 2; w++) {
                const __m512i word = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), mask, every, from + w, 4);
                _mm512_mask_storeu_epi32(to + w * wide + at, mask, word);
            }
            at += count;
        }
    for (i64 w = 0; w < W / 2; w++) std::memset(to + w * wide + at, 0, (wide - at) * sizeof(u32));
}

// Rows of W numbers, paired with the row behind each second one: to[(count + 1) / 2][W]; an odd last row is paired with zeros.
template <class Row>
void as_pairs(i64 count, i64 W, u32* to, Row row) {
    for (i64 r = 0; r < count; r += 2) {
        const bf16 *low = row(r), *high = r + 1 < count ? row(r + 1) : nullptr;
        for (i64 w = 0; w < W; w += 16) {
            const __m256i upper = high ? _mm256_loadu_si256((const __m256i*)(high + w)) : _mm256_setzero_si256();
            _mm512_storeu_si512(to + r / 2 * W + w, paired(_mm256_loadu_si256((const __m256i*)(low + w)), upper));
        }
    }
}

// Where each key a piece sees lies.
void placed(const Tree& tree, const Piece& piece, i64* places) {
    for (i64 s = piece.first; s < piece.last; s++)
        for (i64 at = tree.spans[2 * s]; at < tree.spans[2 * s + 1]; at++) *places++ = at;
}

__m256i halves(const float* x) { return (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x)); }

void narrowed(const float* x, i64 count, bf16* to) {  // a multiple of 16
    for (i64 i = 0; i < count; i += 16) _mm256_storeu_si256((__m256i*)(to + i), halves(x + i));
}

struct Scratch {  // of one thread, for pieces that see at most `wide` keys
    i64 wide;
    Array<u32> kt, vt, kp, qp, gp, pp, dp;  // as columns, and in pairs
    Array<float> s, d, o, dk, dv;
    Array<bf16> p;
    Array<i64> places;

    Scratch(i64 most, i64 W, bool back) : wide(rounded(most)) {
        const i64 columns = W / 2 * wide, pairs = (wide / 2) * W, half = ROWS / 2;
        kt.take(columns), kp.take(pairs), s.take(ROWS * wide), p.take(ROWS * wide), o.take(ROWS * W), places.take(most);
        if (!back) return;
        vt.take(columns), d.take(ROWS * wide), qp.take(half * W), gp.take(half * W);
        pp.take(half * wide), dp.take(half * wide), dk.take(wide * W), dv.take(wide * W);
    }
};

// One piece and key-value head: q and out [G, n, W], logsum [G, n].
void look(const Tree& tree, const Piece& piece, const bf16* q, const bf16* keys, const bf16* values, bf16* out, float* logsum, i64 G, i64 W,
          Scratch& of) {
    const i64 n = piece.n(), S = tree.seen(piece), wide = rounded(S);
    placed(tree, piece, of.places.data());
    as_columns(keys, tree, piece, W, of.kt.data(), wide);
    as_pairs(S, W, of.kp.data(), [&](i64 j) { return values + of.places[j] * W; });
    std::memset(of.kp.data() + (S + 1) / 2 * W, 0, (wide / 2 - (S + 1) / 2) * W * sizeof(u32));
    for (i64 row = 0; row < G * n; row += ROWS) {
        // rows of two heads may meet in one batch: then it sees as far as the furthest of them
        const i64 rows = G * n - row < ROWS ? G * n - row : ROWS;
        const bool across = row / n != (row + rows - 1) / n;
        const i64 furthest = across ? S : S - n + (row + rows - 1) % n + 1, columns = rounded(furthest);
        multiply(rows, columns, (const u32*)(q + row * W), W / 2, 1, of.kt.data(), wide, W / 2, of.s.data(), wide, false);
        for (i64 r = 0; r < rows; r++) {
            float* s = of.s.data() + r * wide;
            const i64 seen = S - n + (row + r) % n + 1;
            float top = -INFINITY, sum = 0;
#pragma omp simd reduction(max : top)
            for (i64 j = 0; j < seen; j++) top = s[j] > top ? s[j] : top;
#pragma omp simd reduction(+ : sum)
            for (i64 j = 0; j < seen; j++) sum += s[j] = fast_exp(s[j] - top);
            logsum[row + r] = top + std::log(sum);
            const float scale = 1.0f / sum;
#pragma omp simd
            for (i64 j = 0; j < seen; j++) s[j] *= scale;
            std::memset(s + seen, 0, (columns - seen) * sizeof(float));
            narrowed(s, columns, of.p.data() + r * wide);
        }
        multiply(rows, W, (const u32*)of.p.data(), wide / 2, 1, of.kp.data(), W, columns / 2, of.o.data(), W, false);
        narrowed(of.o.data(), rows * W, out + row * W);
    }
}

// The way back of `look`: dq [G, n, W]; what belongs to keys and values is added to dk, dv [T, W].
void look_back(const Tree& tree, const Piece& piece, const bf16* g, const float* delta, const bf16* q, const bf16* keys, const bf16* values,
               const float* logsum, bf16* dq, float* dk, float* dv, i64 G, i64 W, Scratch& of) {
    const i64 n = piece.n(), S = tree.seen(piece), wide = rounded(S);
    placed(tree, piece, of.places.data());
    as_columns(keys, tree, piece, W, of.kt.data(), wide);
    as_columns(values, tree, piece, W, of.vt.data(), wide);
    as_pairs(S, W, of.kp.data(), [&](i64 j) { return keys + of.places[j] * W; });
    std::memset(of.kp.data() + (S + 1) / 2 * W, 0, (wide / 2 - (S + 1) / 2) * W * sizeof(u32));
    std::memset(of.dk.data(), 0, wide * W * sizeof(float));
    std::memset(of.dv.data(), 0, wide * W * sizeof(float));
    for (i64 row = 0; row < G * n; row += ROWS) {
        const i64 rows = G * n - row < ROWS ? G * n - row : ROWS, pairs = (rows + 1) / 2;
        const bool across = row / n != (row + rows - 1) / n;
        const i64 furthest = across ? S : S - n + (row + rows - 1) % n + 1, columns = rounded(furthest);
        multiply(rows, columns, (const u32*)(q + row * W), W / 2, 1, of.kt.data(), wide, W / 2, of.s.data(), wide, false);
        multiply(rows, columns, (const u32*)(g + row * W), W / 2, 1, of.vt.data(), wide, W / 2, of.d.data(), wide, false);
        if (rows % 2) {
            std::memset(of.s.data() + rows * wide, 0, columns * sizeof(float));
            std::memset(of.d.data() + rows * wide, 0, columns * sizeof(float));
        }
        for (i64 r = 0; r < rows; r++) {
            float *s = of.s.data() + r * wide, *d = of.d.data() + r * wide;
            const i64 seen = S - n + (row + r) % n + 1;
            const float shift = logsum[row + r], inner = delta[row + r];
#pragma omp simd
            for (i64 j = 0; j < seen; j++) {
                s[j] = fast_exp(s[j] - shift);
                d[j] = s[j] * (d[j] - inner);
            }
            std::memset(s + seen, 0, (columns - seen) * sizeof(float));
            std::memset(d + seen, 0, (columns - seen) * sizeof(float));
        }
        for (i64 r = 0; r < 2 * pairs; r += 2)
            for (i64 j = 0; j < columns; j += 16) {
                const __m256i p0 = halves(of.s.data() + r * wide + j), p1 = halves(of.s.data() + (r + 1) * wide + j);
                const __m256i d0 = halves(of.d.data() + r * wide + j), d1 = halves(of.d.data() + (r + 1) * wide + j);
                _mm512_storeu_si512(of.pp.data() + r / 2 * wide + j, paired(p0, p1));
                _mm512_storeu_si512(of.dp.data() + r / 2 * wide + j, paired(d0, d1));
                _mm256_storeu_si256((__m256i*)(of.p.data() + r * wide + j), d0);
                _mm256_storeu_si256((__m256i*)(of.p.data() + (r + 1) * wide + j), d1);
            }
        multiply(rows, W, (const u32*)of.p.data(), wide / 2, 1, of.kp.data(), W, columns / 2, of.o.data(), W, false);
        narrowed(of.o.data(), rows * W, dq + row * W);
        as_pairs(rows, W, of.qp.data(), [&](i64 r) { return q + (row + r) * W; });
        as_pairs(rows, W, of.gp.data(), [&](i64 r) { return g + (row + r) * W; });
        multiply(furthest, W, of.dp.data(), 1, wide, of.qp.data(), W, pairs, of.dk.data(), W, true);
        multiply(furthest, W, of.pp.data(), 1, wide, of.gp.data(), W, pairs, of.dv.data(), W, true);
    }
    for (i64 j = 0; j < S; j++) {
        float *k = dk + of.places[j] * W, *v = dv + of.places[j] * W;
#pragma omp simd
        for (i64 w = 0; w < W; w++) {
            k[w] += of.dk[j * W + w];
            v[w] += of.dv[j * W + w];
        }
    }
}

// Sums of keys and values of the heads one thread has worked on.
struct Share {
    i64 first = 0, last = 0;  // its items: head by head, in each the pieces in their order
    Array<float> dk, dv;
};

// Items in the order of heads and pieces, in as many runs of about the same work as there are threads: who adds what is always the same.
void share_out(const Tree& tree, i64 K, i64 threads, Share* shares) {
    const i64 items = K * tree.count;
    Array<double> until;
    until.take(items + 1);
    for (i64 item = 0; item < items; item++) {
        const Piece& piece = tree.pieces[item % tree.count];
        until[item + 1] = until[item] + double(piece.n()) * double(tree.seen(piece) + 16);
    }
    i64 at = 0;
    for (i64 t = 0; t < threads; t++) {
        shares[t].first = at;
        while (at < items && (until[at] + until[at + 1]) / 2 < until[items] * double(t + 1) / double(threads)) at++;
        shares[t].last = at = t + 1 == threads ? items : at;
    }
}

}  // namespace

extern "C" int attend_bfloat16(const bf16* q, const bf16* k, const bf16* v, const i64* pieces, const i64* spans, i64 count, bf16* out,
                               float* logsum, i64 T, i64 H, i64 K, i64 W) {
    if (W % 16) return 0;
    const Tree tree{reinterpret_cast<const Piece*>(pieces), spans, count};
    const i64 G = H / K, most = tree.most();
#pragma omp parallel
    {
        Scratch scratch(most, W, false);
#pragma omp for schedule(dynamic)
        for (i64 item = 0; item < count * K; item++) {
            const Piece& piece = tree.pieces[item / K];
            const i64 head = item % K, rows = piece.start * H + head * G * piece.n();
            look(tree, piece, q + rows * W, k + head * T * W, v + head * T * W, out + rows * W, logsum + rows, G, W, scratch);
        }
    }
    return 1;
}

extern "C" int attend_back_bfloat16(const bf16* g, const float* delta, const bf16* q, const bf16* k, const bf16* v, const float* logsum,
                                    const i64* pieces, const i64* spans, i64 count, bf16* dq, bf16* dk, bf16* dv, i64 T, i64 H, i64 K,
                                    i64 W) {
    if (W % 16) return 0;
    const Tree tree{reinterpret_cast<const Piece*>(pieces), spans, count};
    const i64 G = H / K, most = tree.most(), able = omp_get_max_threads(), threads = able < MOST_THREADS ? able : MOST_THREADS;
    Share shares[MOST_THREADS];
    share_out(tree, K, threads, shares);
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (i64 t = 0; t < threads; t++) {
        Share& mine = shares[t];
        if (mine.first == mine.last) continue;
        const i64 lowest = mine.first / count, heads = (mine.last - 1) / count - lowest + 1;
        mine.dk.take(heads * T * W);
        mine.dv.take(heads * T * W);
        Scratch scratch(most, W, true);
        for (i64 item = mine.first; item < mine.last; item++) {
            const Piece& piece = tree.pieces[item % count];
            const i64 head = item / count, rows = piece.start * H + head * G * piece.n(), sums = (head - lowest) * T * W;
            look_back(tree, piece, g + rows * W, delta + rows, q + rows * W, k + head * T * W, v + head * T * W, logsum + rows, dq + rows * W,
                      mine.dk.data() + sums, mine.dv.data() + sums, G, W, scratch);
        }
    }
#pragma omp parallel for schedule(static)
    for (i64 row = 0; row < K * T; row++) {
        const i64 head = row / T;
        for (i64 w = 0; w < W; w++) {
            float key = 0, value = 0;
            for (i64 t = 0; t < threads; t++) {
                const Share& share = shares[t];
                if (share.first == share.last || head < share.first / count || head > (share.last - 1) / count) continue;
                const i64 at = ((head - share.first / count) * T + row % T) * W + w;
                key += share.dk.data()[at];
                value += share.dv.data()[at];
            }
            dk[row * W + w] = narrow<bf16>(key);
            dv[row * W + w] = narrow<bf16>(value);
        }
    }
    return 1;
}

#else

extern "C" int attend_bfloat16(...) { return 0; }
extern "C" int attend_back_bfloat16(...) { return 0; }

#endif

extern "C" int attend_float32(...) { return 0; }
extern "C" int attend_back_float32(...) { return 0; }
