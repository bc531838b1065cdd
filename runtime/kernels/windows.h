// Products of any QUAD of 64 neighbouring inputs of an output, for 16 outputs at a time: for N of 64, and for zeros
// without a pattern. A tile of inputs stands as rows of bytes, a row a token, so no vector has to be filled up with
// tokens. One `vpermb` picks four of a token's 64 inputs for each of 16 outputs. Needs AVX-512 VBMI.

inline int windows_of(int inputs) { return (inputs + WINDOW - 1) / WINDOW; }
// Bytes from a token to the next: an odd number of cache lines, so that tokens do not share a set of the cache.
inline int token_bytes(int inputs) { return (windows_of(inputs) | 1) * WINDOW; }

// Four vectors of dwords to their columns within each 128 bits: column j of all four stands in vector j.
PRUNEONCE_INLINE void transpose(const I* x, I* y) {
    const I low_a = _mm512_unpacklo_epi32(x[0], x[1]), high_a = _mm512_unpackhi_epi32(x[0], x[1]);
    const I low_b = _mm512_unpacklo_epi32(x[2], x[3]), high_b = _mm512_unpackhi_epi32(x[2], x[3]);
    y[0] = _mm512_unpacklo_epi64(low_a, low_b);
    y[1] = _mm512_unpackhi_epi64(low_a, low_b);
    y[2] = _mm512_unpacklo_epi64(high_a, high_b);
    y[3] = _mm512_unpackhi_epi64(high_a, high_b);
}

// Vectors of 16 dwords, as many, to their columns.
PRUNEONCE_INLINE void transpose(I (&x)[16]) {
    I y[16];
#pragma GCC unroll 4
    for (int q = 0; q < 16; q += 4) transpose(x + q, y + q);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        const I a = _mm512_shuffle_i32x4(y[j], y[j + 4], 0x44), b = _mm512_shuffle_i32x4(y[j + 8], y[j + 12], 0x44);
        const I c = _mm512_shuffle_i32x4(y[j], y[j + 4], 0xee), d = _mm512_shuffle_i32x4(y[j + 8], y[j + 12], 0xee);
        x[j] = _mm512_shuffle_i32x4(a, b, 0x88);
        x[j + 4] = _mm512_shuffle_i32x4(a, b, 0xdd);
        x[j + 8] = _mm512_shuffle_i32x4(c, d, 0x88);
        x[j + 12] = _mm512_shuffle_i32x4(c, d, 0xdd);
    }
}

// The bundles from `first` to `last`, 16 tokens at a time.
inline void windows(int vectors, const Matrix& m, int first, int last, const uint8_t* x, const Finish& f) {
    const int count = windows_of(m.inputs), stride = token_bytes(m.inputs);
    for (int v = 0; v < vectors; ++v, x += size_t(16) * stride)
        for (int b = first; b < last; ++b) {
            const Bundle& bundle = m.bundles[b];
            const uint8_t *picks = m.picks.data() + 4 * bundle.first, *steps = m.steps.data() + size_t(b) * count;
            const int32_t* weights = m.weights.data() + bundle.first;
            alignas(64) int32_t start[LANES];
            for (int i = 0; i < LANES; ++i) start[i] = bundle.rows[i] < 0 ? 0 : m.start[bundle.rows[i]];
            I sums[16];
#pragma GCC unroll 16
            for (int t = 0; t < 16; ++t) sums[t] = load(start);
            for (int w = 0; w < count; ++w)
                for (int s = 0; s < steps[w]; ++s, picks += 64, weights += LANES) {
                    const I places = load(reinterpret_cast<const int32_t*>(picks)), weight = load(weights);
                    prefetch(picks + AHEAD);
                    prefetch(weights + AHEAD / 4);
                    const uint8_t* token = x + w * WINDOW;
#pragma GCC unroll 16
                    for (int t = 0; t < 16; ++t)
                        sums[t] = dot(sums[t], _mm512_permutexvar_epi8(places, _mm512_load_si512(token + size_t(t) * stride)), weight);
                }
            transpose(sums);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; ++i)
                if (bundle.rows[i] >= 0) finish(m, f, bundle.rows[i], v, sums[i]);
            if (f.activation != Activation::none)
                activate(f.activation, f.to + size_t(v) * LANES, f.stride, bundle.rows, LANES, 1);
        }
}

// A tile of float rows as rows of bytes, a row a token.
inline void quantize_tokens(const Matrix& m, const Quantizer& quantizer, int vectors, const float* x, uint8_t* bytes,
                            int first, int last) {
    const int lanes = vectors * LANES, stride = token_bytes(m.inputs);
    for (int k = first; k < windows_of(last) * WINDOW; k += 16)
        for (int v = 0; v < vectors; ++v) {
            I quads[4];
#pragma GCC unroll 4
            for (int g = 0; g < 4; ++g) {
                const int rows = std::clamp(m.inputs - k - 4 * g, 0, 4);
                quads[g] = rows ? quantizer.quad(x + size_t(k + 4 * g) * lanes + v * LANES, lanes, rows) : broadcast(0);
            }
            I tokens[4];  // of token 4 l + j, sixteen inputs in lane l of the vector j
            transpose(quads, tokens);
            uint8_t* to = bytes + size_t(16 * v) * stride + k;
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
                auto put = [&](int l, __m128i part) { _mm_store_si128(reinterpret_cast<__m128i*>(to + size_t(4 * l + j) * stride), part); };
                put(0, _mm512_castsi512_si128(tokens[j]));
                put(1, _mm512_extracti32x4_epi32(tokens[j], 1));
                put(2, _mm512_extracti32x4_epi32(tokens[j], 2));
                put(3, _mm512_extracti32x4_epi32(tokens[j], 3));
            }
        }
}
