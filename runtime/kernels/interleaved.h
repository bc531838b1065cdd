// Products of any QUAD inputs of an output, brought together on the way: for zeros without a pattern. A tile of inputs
// stands as rows of bytes, a byte a token. Needs AVX-512 VBMI.

// Bytes of a row of inputs of a tile: of 16, 32 or 64 tokens.
constexpr int row_bytes(int vectors) { return vectors <= 2 ? 16 * vectors : 64; }

// Four rows of bytes as dwords of their tokens. Of 64 tokens, the rows stand in the order that unpacking undoes: token
// 16 v + 4 l + i at byte 16 l + 4 v + i.
template <int NV>
PRUNEONCE_INLINE void interleave(const uint8_t* x, const uint16_t* where, I (&out)[NV]) {
    constexpr int BYTES = row_bytes(NV);
    uint64_t rows;
    std::memcpy(&rows, where, 8);
    auto row = [&](int i) PRUNEONCE_INLINE_LAMBDA { return x + size_t(rows >> (16 * i) & 0xffff) * BYTES; };
    const uint8_t *a = row(0), *b = row(1), *c = row(2), *d = row(3);
    if constexpr (NV == 1) {
        __m512i all = _mm512_castsi128_si512(_mm_load_si128(reinterpret_cast<const __m128i*>(a)));
        all = _mm512_inserti32x4(all, _mm_load_si128(reinterpret_cast<const __m128i*>(b)), 1);
        all = _mm512_inserti32x4(all, _mm_load_si128(reinterpret_cast<const __m128i*>(c)), 2);
        all = _mm512_inserti32x4(all, _mm_load_si128(reinterpret_cast<const __m128i*>(d)), 3);
        const __m512i order = _mm512_set_epi32(
            0x3f2f1f0f, 0x3e2e1e0e, 0x3d2d1d0d, 0x3c2c1c0c, 0x3b2b1b0b, 0x3a2a1a0a, 0x39291909, 0x38281808,
            0x37271707, 0x36261606, 0x35251505, 0x34241404, 0x33231303, 0x32221202, 0x31211101, 0x30201000);
        out[0] = _mm512_permutexvar_epi8(order, all);
    } else if constexpr (NV == 2) {
        auto pair = [](const uint8_t* low, const uint8_t* high) {
            return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_load_si256(reinterpret_cast<const __m256i*>(low))),
                                      _mm256_load_si256(reinterpret_cast<const __m256i*>(high)), 1);
        };
        const __m512i ab = pair(a, b), cd = pair(c, d);
        const __m512i first = _mm512_set_epi32(
            0x6f4f2f0f, 0x6e4e2e0e, 0x6d4d2d0d, 0x6c4c2c0c, 0x6b4b2b0b, 0x6a4a2a0a, 0x69492909, 0x68482808,
            0x67472707, 0x66462606, 0x65452505, 0x64442404, 0x63432303, 0x62422202, 0x61412101, 0x60402000);
        const __m512i second = _mm512_add_epi8(first, _mm512_set1_epi8(16));
        out[0] = _mm512_permutex2var_epi8(ab, first, cd);
        out[1] = _mm512_permutex2var_epi8(ab, second, cd);
    } else {
        const __m512i va = _mm512_load_si512(a), vb = _mm512_load_si512(b), vc = _mm512_load_si512(c),
                      vd = _mm512_load_si512(d);
        const __m512i low_ab = _mm512_unpacklo_epi8(va, vb), high_ab = _mm512_unpackhi_epi8(va, vb);
        const __m512i low_cd = _mm512_unpacklo_epi8(vc, vd), high_cd = _mm512_unpackhi_epi8(vc, vd);
        out[0] = _mm512_unpacklo_epi16(low_ab, low_cd);
        out[1] = _mm512_unpackhi_epi16(low_ab, low_cd);
        out[2] = _mm512_unpacklo_epi16(high_ab, high_cd);
        if constexpr (NV == 4) out[3] = _mm512_unpackhi_epi16(high_ab, high_cd);
    }
}

template <int NV>
inline void interleaved(const Matrix& m, int first, int last, const uint8_t* x, const Finish& f) {
    constexpr int R = NV <= 2 ? 4 : 2;
    for (int b = first; b < last; ++b)
        for (int row = 0; row < ROWS; row += R) {
            const Bundle& bundle = m.bundles[b];
            const int32_t* weights = m.weights.data() + bundle.first + row;
            const uint16_t* where = m.where.data() + (bundle.first + row) * 4;
            I sums[R][NV];
            begin(m, bundle, row, sums);
            for (int s = 0; s < bundle.steps; ++s, weights += ROWS, where += ROWS * 4) {
                prefetch(weights + AHEAD / 4);
                prefetch(where + AHEAD / 2);
                I spread_weights[R];
                spread(weights, spread_weights);
#pragma GCC unroll 4
                for (int r = 0; r < R; ++r) {
                    I columns[NV];
                    interleave<NV>(x, where + 4 * r, columns);
#pragma GCC unroll 4
                    for (int v = 0; v < NV; ++v) sums[r][v] = dot(sums[r][v], columns[v], spread_weights[r]);
                }
            }
            end(m, f, bundle, row, sums);
        }
}

// A tile of float rows as rows of bytes.
inline void quantize_rows(const Quantizer& quantizer, int vectors, const float* x, uint8_t* bytes, int first, int last) {
    const int lanes = vectors * LANES;
    x += size_t(first) * lanes;
    bytes += size_t(first) * row_bytes(vectors);
    const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    for (int k = first; k < last; ++k, x += lanes, bytes += row_bytes(vectors)) {
        alignas(64) uint8_t row[64] = {};
        for (int v = 0; v < vectors; ++v)
            _mm_store_si128(reinterpret_cast<__m128i*>(row + 16 * v), _mm512_cvtepi32_epi8(quantizer(load(x + v * LANES))));
        if (vectors == 1)
            _mm_store_si128(reinterpret_cast<__m128i*>(bytes), _mm_load_si128(reinterpret_cast<const __m128i*>(row)));
        else if (vectors == 2)
            _mm256_store_si256(reinterpret_cast<__m256i*>(bytes), _mm256_load_si256(reinterpret_cast<const __m256i*>(row)));
        else
            _mm512_store_si512(bytes, _mm512_permutexvar_epi32(order, _mm512_load_si512(row)));
    }
}
