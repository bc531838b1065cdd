// One vector of 32-bit lanes, in the widths that instruction sets have. Included inside a namespace for each of them:
// a file that is compiled for an instruction set defines PRUNEONCE_AVX512, PRUNEONCE_AVX2 (and PRUNEONCE_AVXVNNI) or
// neither, and gets 16, 8 or 4 lanes. The narrow one is written in SSE4.1 by way of SIMDe, which makes NEON,
// WebAssembly or plain code of it where there is no x86.
//
// F is LANES floats, I is LANES int32. A lane of I is also QUAD small integers of one token: four uint8 (with VNNI), or
// two int16, whose products are exact in every instruction set.

#if defined(PRUNEONCE_AVX512)

constexpr int LANES = 16, QUAD = 4;
using F = __m512;
using I = __m512i;

PRUNEONCE_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
PRUNEONCE_INLINE I load(const int32_t* p) { return _mm512_loadu_si512(p); }
PRUNEONCE_INLINE void store(float* p, F v) { _mm512_storeu_ps(p, v); }
PRUNEONCE_INLINE void store(int32_t* p, I v) { _mm512_storeu_si512(p, v); }
PRUNEONCE_INLINE void store_some(float* p, F v, int first, int last) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>(((1u << last) - 1u) & ~((1u << first) - 1u)), v);
}
PRUNEONCE_INLINE F broadcast(float x) { return _mm512_set1_ps(x); }
PRUNEONCE_INLINE I broadcast(int32_t x) { return _mm512_set1_epi32(x); }
PRUNEONCE_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
PRUNEONCE_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
PRUNEONCE_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
PRUNEONCE_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
PRUNEONCE_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
PRUNEONCE_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
PRUNEONCE_INLINE F min(F a, F b) { return _mm512_min_ps(a, b); }
PRUNEONCE_INLINE F sqrt(F a) { return _mm512_sqrt_ps(a); }
PRUNEONCE_INLINE I nearest(F a) { return _mm512_cvtps_epi32(a); }
PRUNEONCE_INLINE F real(I a) { return _mm512_cvtepi32_ps(a); }
PRUNEONCE_INLINE F from_bytes(const int8_t* p) {
    return real(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
PRUNEONCE_INLINE I add(I a, I b) { return _mm512_add_epi32(a, b); }
PRUNEONCE_INLINE I or_(I a, I b) { return _mm512_or_si512(a, b); }
template <int N> PRUNEONCE_INLINE I shift_left(I a) { return _mm512_slli_epi32(a, N); }
PRUNEONCE_INLINE F as_float(I a) { return _mm512_castsi512_ps(a); }
PRUNEONCE_INLINE F select_within(F a, F position, F low, F high, F other) {
    const __mmask16 in = _mm512_cmp_ps_mask(position, low, _CMP_GE_OQ) & _mm512_cmp_ps_mask(position, high, _CMP_LE_OQ);
    return _mm512_mask_blend_ps(in, other, a);
}
PRUNEONCE_INLINE I dot(I sum, I x, I w) { return _mm512_dpbusd_epi32(sum, x, w); }
// Four dwords, over and over; `pick` puts number N of them into every lane.
PRUNEONCE_INLINE I four(const int32_t* p) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
template <int N> PRUNEONCE_INLINE I pick(I a) { return _mm512_shuffle_epi32(a, static_cast<_MM_PERM_ENUM>(N * 0x55)); }
// 1 / a by a table and a step of Newton's method: within 1e-8 of it, in a third of a division's time.
PRUNEONCE_INLINE F reciprocal(F a) {
    const F r = _mm512_rcp14_ps(a);
    return mul(r, _mm512_fnmadd_ps(a, r, broadcast(2.0f)));
}

#elif defined(PRUNEONCE_AVX2)

#if defined(PRUNEONCE_AVXVNNI)
constexpr int LANES = 8, QUAD = 4;
#else
constexpr int LANES = 8, QUAD = 2;
#endif
using F = __m256;
using I = __m256i;

PRUNEONCE_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
PRUNEONCE_INLINE I load(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
PRUNEONCE_INLINE void store(float* p, F v) { _mm256_storeu_ps(p, v); }
PRUNEONCE_INLINE void store(int32_t* p, I v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
PRUNEONCE_INLINE void store_some(float* p, F v, int first, int last) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i in = _mm256_and_si256(_mm256_cmpgt_epi32(lane, _mm256_set1_epi32(first - 1)),
                                        _mm256_cmpgt_epi32(_mm256_set1_epi32(last), lane));
    _mm256_maskstore_ps(p, in, v);
}
PRUNEONCE_INLINE F broadcast(float x) { return _mm256_set1_ps(x); }
PRUNEONCE_INLINE I broadcast(int32_t x) { return _mm256_set1_epi32(x); }
PRUNEONCE_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
PRUNEONCE_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
PRUNEONCE_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
PRUNEONCE_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
PRUNEONCE_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
PRUNEONCE_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }
PRUNEONCE_INLINE F min(F a, F b) { return _mm256_min_ps(a, b); }
PRUNEONCE_INLINE F sqrt(F a) { return _mm256_sqrt_ps(a); }
PRUNEONCE_INLINE I nearest(F a) { return _mm256_cvtps_epi32(a); }
PRUNEONCE_INLINE F real(I a) { return _mm256_cvtepi32_ps(a); }
PRUNEONCE_INLINE F from_bytes(const int8_t* p) {
    return real(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
PRUNEONCE_INLINE I add(I a, I b) { return _mm256_add_epi32(a, b); }
PRUNEONCE_INLINE I or_(I a, I b) { return _mm256_or_si256(a, b); }
template <int N> PRUNEONCE_INLINE I shift_left(I a) { return _mm256_slli_epi32(a, N); }
PRUNEONCE_INLINE F as_float(I a) { return _mm256_castsi256_ps(a); }
PRUNEONCE_INLINE F select_within(F a, F position, F low, F high, F other) {
    const F in = _mm256_and_ps(_mm256_cmp_ps(position, low, _CMP_GE_OQ), _mm256_cmp_ps(position, high, _CMP_LE_OQ));
    return _mm256_blendv_ps(other, a, in);
}
PRUNEONCE_INLINE I four(const int32_t* p) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
template <int N> PRUNEONCE_INLINE I pick(I a) { return _mm256_shuffle_epi32(a, N * 0x55); }
#if defined(PRUNEONCE_AVXVNNI)
PRUNEONCE_INLINE I dot(I sum, I x, I w) { return _mm256_dpbusd_avx_epi32(sum, x, w); }
#else
PRUNEONCE_INLINE I dot(I sum, I x, I w) { return _mm256_add_epi32(sum, _mm256_madd_epi16(x, w)); }
#endif

#else

constexpr int LANES = 4, QUAD = 2;
using F = simde__m128;
using I = simde__m128i;

PRUNEONCE_INLINE F load(const float* p) { return simde_mm_loadu_ps(p); }
PRUNEONCE_INLINE I load(const int32_t* p) { return simde_mm_loadu_si128(p); }
PRUNEONCE_INLINE void store(float* p, F v) { simde_mm_storeu_ps(p, v); }
PRUNEONCE_INLINE void store(int32_t* p, I v) { simde_mm_storeu_si128(p, v); }
PRUNEONCE_INLINE void store_some(float* p, F v, int first, int last) {
    float lanes[4];
    simde_mm_storeu_ps(lanes, v);
    for (int i = first; i < last; ++i) p[i] = lanes[i];
}
PRUNEONCE_INLINE F broadcast(float x) { return simde_mm_set1_ps(x); }
PRUNEONCE_INLINE I broadcast(int32_t x) { return simde_mm_set1_epi32(x); }
PRUNEONCE_INLINE F add(F a, F b) { return simde_mm_add_ps(a, b); }
PRUNEONCE_INLINE F sub(F a, F b) { return simde_mm_sub_ps(a, b); }
PRUNEONCE_INLINE F mul(F a, F b) { return simde_mm_mul_ps(a, b); }
PRUNEONCE_INLINE F div(F a, F b) { return simde_mm_div_ps(a, b); }
PRUNEONCE_INLINE F fma(F a, F b, F c) { return simde_mm_fmadd_ps(a, b, c); }
PRUNEONCE_INLINE F max(F a, F b) { return simde_mm_max_ps(a, b); }
PRUNEONCE_INLINE F min(F a, F b) { return simde_mm_min_ps(a, b); }
PRUNEONCE_INLINE F sqrt(F a) { return simde_mm_sqrt_ps(a); }
PRUNEONCE_INLINE I nearest(F a) { return simde_mm_cvtps_epi32(a); }
PRUNEONCE_INLINE F real(I a) { return simde_mm_cvtepi32_ps(a); }
PRUNEONCE_INLINE F from_bytes(const int8_t* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return real(simde_mm_cvtepi8_epi32(simde_mm_cvtsi32_si128(four)));
}
PRUNEONCE_INLINE I add(I a, I b) { return simde_mm_add_epi32(a, b); }
PRUNEONCE_INLINE I or_(I a, I b) { return simde_mm_or_si128(a, b); }
template <int N> PRUNEONCE_INLINE I shift_left(I a) { return simde_mm_slli_epi32(a, N); }
PRUNEONCE_INLINE F as_float(I a) { return simde_mm_castsi128_ps(a); }
PRUNEONCE_INLINE F select_within(F a, F position, F low, F high, F other) {
    const F in = simde_mm_and_ps(simde_mm_cmpge_ps(position, low), simde_mm_cmple_ps(position, high));
    return simde_mm_blendv_ps(other, a, in);
}
PRUNEONCE_INLINE I four(const int32_t* p) { return simde_mm_loadu_si128(p); }
template <int N> PRUNEONCE_INLINE I pick(I a) { return simde_mm_shuffle_epi32(a, N * 0x55); }
PRUNEONCE_INLINE I dot(I sum, I x, I w) { return simde_mm_add_epi32(sum, simde_mm_madd_epi16(x, w)); }

#endif

#if !defined(PRUNEONCE_AVX512)
PRUNEONCE_INLINE F reciprocal(F a) { return div(broadcast(1.0f), a); }
#endif

// What attention multiplies in one lane: FOLD features of a token, or the weights or values of FOLD tokens.
#if defined(PRUNEONCE_BF16)
constexpr int FOLD = 2;
using Fold = I;
using Folded = int32_t;  // a lane of it: two bfloat16
using Value = uint16_t;  // one
PRUNEONCE_INLINE I fold(F even, F odd) {
    const __m512i order = _mm512_set_epi32(0x001f000f, 0x001e000e, 0x001d000d, 0x001c000c, 0x001b000b, 0x001a000a,
                                           0x00190009, 0x00180008, 0x00170007, 0x00160006, 0x00150005, 0x00140004,
                                           0x00130003, 0x00120002, 0x00110001, 0x00100000);
    return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}
PRUNEONCE_INLINE F fold_dot(F sum, I a, I b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
PRUNEONCE_INLINE void store_values(uint16_t* p, F v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(v));
}
PRUNEONCE_INLINE int32_t folded(const uint16_t* p) {
    int32_t both;
    std::memcpy(&both, p, 4);
    return both;
}
PRUNEONCE_INLINE int32_t half_folded(const uint16_t* p) { return *p; }
#else
constexpr int FOLD = 1;
using Fold = F;
using Folded = float;
using Value = float;
PRUNEONCE_INLINE F fold(F a, F) { return a; }
PRUNEONCE_INLINE F fold_dot(F sum, F a, F b) { return fma(a, b, sum); }
PRUNEONCE_INLINE void store_values(float* p, F v) { store(p, v); }
PRUNEONCE_INLINE float folded(const float* p) { return *p; }
PRUNEONCE_INLINE float half_folded(const float* p) { return *p; }
#endif

PRUNEONCE_INLINE F lane_numbers(float first) {
    static const float numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return add(broadcast(first), load(numbers));
}

// A vector that stays in its register, where a compiler would load it again for every use.
template <class T>
PRUNEONCE_INLINE T kept(T a) {
#if defined(__GNUC__) && (defined(PRUNEONCE_AVX512) || defined(PRUNEONCE_AVX2))
    asm("" : "+v"(a));
#endif
    return a;
}

#if defined(PRUNEONCE_AVX512)
// e^x for x <= 0: 2^n 2^f with |f| <= 1/2, and 2^f by a polynomial of the sixth degree, within 2e-8 of it.
PRUNEONCE_INLINE F exponential(F x) {
    const F y = mul(x, broadcast(1.44269504f));
    const F n = _mm512_roundscale_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const F f = sub(y, n);
    F p = broadcast(1.5353362e-4f);
    p = fma(p, f, broadcast(1.3398874e-3f));
    p = fma(p, f, broadcast(9.6184373e-3f));
    p = fma(p, f, broadcast(5.5503324e-2f));
    p = fma(p, f, broadcast(2.4022648e-1f));
    p = fma(p, f, broadcast(6.9314720e-1f));
    p = fma(p, f, broadcast(1.0f));
    return _mm512_scalef_ps(p, n);
}
#else
// e^x for x <= 0: 2^n e^r with |r| <= ln(2) / 2, and e^r by its series to the sixth power; below -87 it is e^-87.
PRUNEONCE_INLINE F exponential(F x) {
    x = max(x, broadcast(-87.0f));
    const I n = nearest(mul(x, broadcast(1.44269504f)));
    const F k = real(n);
    F r = fma(k, broadcast(-0.693359375f), x);
    r = fma(k, broadcast(2.12194440e-4f), r);
    F p = broadcast(1.0f / 720);
    p = fma(p, r, broadcast(1.0f / 120));
    p = fma(p, r, broadcast(1.0f / 24));
    p = fma(p, r, broadcast(1.0f / 6));
    p = fma(p, r, broadcast(0.5f));
    p = fma(p, r, broadcast(1.0f));
    p = fma(p, r, broadcast(1.0f));
    return mul(p, as_float(shift_left<23>(add(n, broadcast(127)))));
}
#endif
