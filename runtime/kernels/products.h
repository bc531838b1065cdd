// Products of a matrix with columns of tokens. Included inside a namespace for each instruction set.
//
// Tokens are the lanes: activations of a tile of up to 4 vectors of tokens stand as [inputs / QUAD][tokens] dwords, a
// dword being QUAD neighbouring inputs of one token. A group of weights is QUAD neighbouring inputs of one output, in a
// dword too. For each group that has a weight other than 0, one vector of tokens is loaded and multiplied with the
// group, broadcast. Float weights are groups of one input.

constexpr int ROWS = 8;    // rows of a bundle, which have the same number of steps
constexpr int VECTORS = 4; // of a tile, at most

template <class Body>
inline void with_vectors(int vectors, Body&& body) {
    switch (vectors) {
        case 1: body(std::integral_constant<int, 1>{}); break;
        case 2: body(std::integral_constant<int, 2>{}); break;
        case 3: body(std::integral_constant<int, 3>{}); break;
        default: body(std::integral_constant<int, 4>{}); break;
    }
}

struct Bundle {
    int steps;
    size_t first;         // of its entries in `where` and `weights`, [steps][ROWS]
    int rows[ROWS];       // outputs; -1: none
};

// `dense` does all groups; `groups` those with a weight other than 0; `interleaved` any QUAD inputs of an output, whose
// bytes of a tile stand apart and are brought together on the way; `floats` has one weight a group.
enum class Kernel { dense, groups, interleaved, floats };

struct Matrix {
    Kernel kernel = Kernel::dense;
    int outputs = 0, inputs = 0;
    int groups = 0;                 // of a row: inputs / QUAD rounded up, or inputs of float weights
    double kept = 0, work = 0;
    std::vector<Bundle> bundles;
    Aligned<uint16_t> where;        // number of the group, or QUAD numbers of inputs; none for `dense`
    Aligned<int32_t> weights;       // int8 x 4, int16 x 2, or a float
    Aligned<int32_t> start;         // [outputs]: -zero * sum of the weights
    Aligned<float> scale, bias;     // [outputs]
    float inverse = 0;              // 1 / input scale; 0: float inputs
    int zero = 0;
    bool is_float() const { return kernel == Kernel::floats; }
};

inline int32_t quad(const int8_t* w, int count) {
    uint32_t dword = 0;
    for (int i = 0; i < QUAD; ++i) {
        const int value = i < count ? w[i] : 0;
        dword |= QUAD == 4 ? static_cast<uint32_t>(static_cast<uint8_t>(value)) << (8 * i)
                           : static_cast<uint32_t>(static_cast<uint16_t>(value)) << (16 * i);
    }
    return static_cast<int32_t>(dword);
}

inline double occupied(const Linear& linear) {
    size_t count = 0, all = 0;
    for (int r = 0; r < linear.outputs; ++r)
        for (int k = 0; k < linear.inputs; k += QUAD, ++all)
            count += quad(linear.integers + size_t(r) * linear.inputs + k, std::min(QUAD, linear.inputs - k)) != 0;
    return double(count) / double(std::max<size_t>(all, 1));
}

constexpr double DENSE_FROM = 0.7;  // occupied groups from which on it is faster to multiply by all of them
#if defined(PRUNEONCE_VBMI)
// Interleaving four bytes of every token takes about twice the time of loading a group that stands together.
constexpr double INTERLEAVED_COST = 2.0;
#endif

inline Kernel kernel_for(const Linear& linear) {
    const double share = occupied(linear);
#if defined(PRUNEONCE_VBMI)
    size_t kept = 0;
    for (size_t i = 0; i < size_t(linear.outputs) * linear.inputs; ++i) kept += linear.integers[i] != 0;
    const double filled = double(kept) / (double(linear.outputs) * linear.inputs);
    if (filled * INTERLEAVED_COST < std::min(share, DENSE_FROM)) return Kernel::interleaved;
#endif
    return share >= DENSE_FROM ? Kernel::dense : Kernel::groups;
}

inline Matrix pack(const Linear& linear) {
    Matrix m;
    m.outputs = linear.outputs;
    m.inputs = linear.inputs;
    const bool is_integer = linear.integers && linear.input_scale > 0;
    m.groups = is_integer ? (linear.inputs + QUAD - 1) / QUAD : linear.inputs;
    m.kernel = is_integer ? kernel_for(linear) : Kernel::floats;
    struct Step {
        uint16_t where[4];
        int32_t weights;
    };
    const int places = m.kernel == Kernel::interleaved ? 4 : 1;
    std::vector<std::vector<Step>> rows(linear.outputs);
    size_t kept = 0;
    const int groups_of_scale = linear.scales > linear.outputs ? linear.scales / linear.outputs : 1;
    const int per_scale = linear.inputs / groups_of_scale;
    m.start.resize(linear.outputs);
    m.scale.resize(linear.outputs);
    m.bias.resize(linear.outputs);
    for (int r = 0; r < linear.outputs; ++r) {
        const size_t at = size_t(r) * linear.inputs;
        int32_t sum = 0;
        for (int k = 0; k < linear.inputs; ++k)
            kept += linear.integers ? linear.integers[at + k] != 0 : linear.floats[at + k] != 0;
        if (m.kernel == Kernel::interleaved) {
            Step step{};
            int8_t w[4] = {};
            int count = 0;
            auto flush = [&] {
                step.weights = quad(w, 4);
                rows[r].push_back(step);
                step = Step{};
                std::memset(w, 0, 4);
                count = 0;
            };
            for (int k = 0; k < linear.inputs; ++k) {
                sum += linear.integers[at + k];
                if (linear.integers[at + k] == 0) continue;
                step.where[count] = static_cast<uint16_t>(k);
                w[count++] = linear.integers[at + k];
                if (count == 4) flush();
            }
            if (count) flush();
        } else if (is_integer) {
            for (int g = 0; g < m.groups; ++g) {
                const int32_t w = quad(linear.integers + at + g * QUAD, std::min(QUAD, linear.inputs - g * QUAD));
                if (w != 0 || m.kernel == Kernel::dense) rows[r].push_back({{static_cast<uint16_t>(g)}, w});
            }
            for (int k = 0; k < linear.inputs; ++k) sum += linear.integers[at + k];
        } else {
            for (int k = 0; k < linear.inputs; ++k) {
                float w = 0;
                if (linear.integers) {
                    const int s = linear.scales == 1 ? 0 : r * groups_of_scale + k / per_scale;
                    w = static_cast<float>(linear.integers[at + k]) * linear.scale[s];
                } else {
                    w = linear.floats[at + k];
                }
                if (w == 0) continue;
                int32_t dword;
                std::memcpy(&dword, &w, 4);
                rows[r].push_back({{static_cast<uint16_t>(k)}, dword});
            }
        }
        m.start[r] = -linear.input_zero * sum;
        m.scale[r] = is_integer ? linear.scale[linear.scales == 1 ? 0 : r] * linear.input_scale : 1.0f;
        m.bias[r] = linear.bias ? linear.bias[r] : 0.0f;
    }
    m.kept = double(kept) / std::max(1.0, double(linear.outputs) * linear.inputs);
    if (is_integer) {
        m.inverse = 1.0f / linear.input_scale;
        m.zero = linear.input_zero;
    }
    // Rows of one length stand together, so that none of a bundle waits for another.
    std::vector<int> order(linear.outputs);
    for (int r = 0; r < linear.outputs; ++r) order[r] = r;
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return rows[a].size() > rows[b].size(); });
    size_t steps = 0;
    for (int first = 0; first < linear.outputs; first += ROWS) {
        Bundle bundle{static_cast<int>(rows[order[first]].size()), steps * ROWS, {}};
        for (int i = 0; i < ROWS; ++i) bundle.rows[i] = first + i < linear.outputs ? order[first + i] : -1;
        steps += bundle.steps;
        m.bundles.push_back(bundle);
    }
    m.weights.resize(steps * ROWS);
    if (m.kernel != Kernel::dense) m.where.resize(steps * ROWS * places);
    for (const Bundle& bundle : m.bundles)
        for (int i = 0; i < ROWS; ++i) {
            const auto* row = bundle.rows[i] < 0 ? nullptr : &rows[bundle.rows[i]];
            for (int s = 0; s < bundle.steps; ++s) {
                const bool is_there = row && s < static_cast<int>(row->size());
                const size_t at = bundle.first + size_t(s) * ROWS + i;
                m.weights[at] = is_there ? (*row)[s].weights : 0;
                if (m.kernel == Kernel::dense) continue;
                for (int place = 0; place < places; ++place)
                    m.where[at * places + place] = is_there ? (*row)[s].where[place] : 0;
            }
        }
    m.work = double(steps * ROWS) * (is_integer ? QUAD : 1) / std::max(1.0, double(linear.outputs) * linear.inputs);
    return m;
}

// What is done with the sums of an output before they are stored: `activation(sum * scale + bias) + residual`. Data and
// not a template, so that each kernel is compiled once a width.
struct Finish {
    float* to = nullptr;              // row r of a tile is to + r * stride
    const float* residual = nullptr;  // likewise
    int32_t* sums = nullptr;          // takes the integer sums as they are, in place of all that
    size_t stride = 0;
    Activation activation = Activation::none;
};

F activate(Activation activation, F x);

inline void finish(const Matrix& m, const Finish& f, int row, int v, F sum) {
    const size_t at = size_t(row) * f.stride + size_t(v) * LANES;
    F value = fma(sum, broadcast(m.scale[row]), broadcast(m.bias[row]));  // scale is 1 of float weights
    if (f.activation != Activation::none) value = activate(f.activation, value);
    if (f.residual) value = add(value, load(f.residual + at));
    store(f.to + at, value);
}

inline void finish(const Matrix& m, const Finish& f, int row, int v, I sum) {
    if (f.sums)
        store(f.sums + size_t(row) * f.stride + size_t(v) * LANES, sum);
    else
        finish(m, f, row, v, real(sum));
}

template <int R, int NV, class T>
inline void begin(const Matrix& m, const Bundle& bundle, int first_row, T (&sums)[R][NV]) {
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < NV; ++v) {
            if constexpr (std::is_same_v<T, I>)
                sums[r][v] = broadcast(bundle.rows[first_row + r] < 0 ? 0 : m.start[bundle.rows[first_row + r]]);
            else
                sums[r][v] = broadcast(0.0f);
        }
}

template <int R, int NV, class T>
inline void end(const Matrix& m, const Finish& f, const Bundle& bundle, int first_row, const T (&sums)[R][NV]) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
        if (bundle.rows[first_row + r] >= 0)
#pragma GCC unroll 8
            for (int v = 0; v < NV; ++v) finish(m, f, bundle.rows[first_row + r], v, sums[r][v]);
}

inline I multiply(I sum, I x, int32_t w) { return dot(sum, x, broadcast(w)); }
inline F multiply(F sum, F x, int32_t w) {
    float value;
    std::memcpy(&value, &w, 4);
    return fma(x, broadcast(value), sum);
}

// Sums of R rows of a bundle, from `first_row` on, for NV vectors of tokens.
template <class T, class E, int R, int NV, bool ALL>
inline void bundle_sums(const Matrix& m, const Bundle& bundle, int first_row, const E* x, const Finish& f) {
    T sums[R][NV];
    const int32_t* weights = m.weights.data() + bundle.first + first_row;
    const uint16_t* where = ALL ? nullptr : m.where.data() + bundle.first + first_row;
    begin(m, bundle, first_row, sums);
    constexpr int STRIDE = NV * LANES;
    for (int s = 0; s < bundle.steps; ++s, weights += ROWS) {
        if constexpr (ALL) {
            T columns[NV];
#pragma GCC unroll 8
            for (int v = 0; v < NV; ++v) columns[v] = load(x + size_t(s) * STRIDE + v * LANES);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
                for (int v = 0; v < NV; ++v) sums[r][v] = multiply(sums[r][v], columns[v], weights[r]);
        } else {
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                const E* column = x + size_t(where[r]) * STRIDE;
#pragma GCC unroll 8
                for (int v = 0; v < NV; ++v)
                    sums[r][v] = multiply(sums[r][v], load(column + v * LANES), weights[r]);
            }
            where += ROWS;
        }
    }
    end(m, f, bundle, first_row, sums);
}

// As many rows at once as there are registers for.
constexpr int rows_at_once(int vectors) {
    constexpr int registers = LANES == 16 ? 16 : 8;
    return vectors >= registers ? 1 : std::min(ROWS, registers / vectors >= 8 ? 8 : registers / vectors >= 4 ? 4 : registers / vectors >= 2 ? 2 : 1);
}

template <class T, class E, int NV, bool ALL>
inline void bundles(const Matrix& m, int first, int last, const E* x, const Finish& f) {
    constexpr int R = rows_at_once(NV);
    for (int b = first; b < last; ++b)
        for (int row = 0; row < ROWS; row += R) bundle_sums<T, E, R, NV, ALL>(m, m.bundles[b], row, x, f);
}

#if defined(PRUNEONCE_VBMI)

// Bytes of a row of inputs of a tile: of 16, 32 or 64 tokens.
constexpr int row_bytes(int vectors) { return vectors <= 2 ? 16 * vectors : 64; }

// Four rows of bytes as dwords of their tokens. Of 64 tokens, the rows stand in the order that unpacking undoes: token
// 16 v + 4 l + i at byte 16 l + 4 v + i.
template <int NV>
inline void interleave(const uint8_t* x, const uint16_t* where, I (&out)[NV]) {
    constexpr int BYTES = row_bytes(NV);
    const uint8_t *a = x + size_t(where[0]) * BYTES, *b = x + size_t(where[1]) * BYTES, *c = x + size_t(where[2]) * BYTES,
                  *d = x + size_t(where[3]) * BYTES;
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
            for (int s = 0; s < bundle.steps; ++s, weights += ROWS, where += ROWS * 4)
#pragma GCC unroll 4
                for (int r = 0; r < R; ++r) {
                    I columns[NV];
                    interleave<NV>(x, where + 4 * r, columns);
#pragma GCC unroll 4
                    for (int v = 0; v < NV; ++v) sums[r][v] = multiply(sums[r][v], columns[v], weights[r]);
                }
            end(m, f, bundle, row, sums);
        }
}

#endif

// The bundles from `first` to `last` over one tile of NV vectors.
template <int NV>
void tile_product(const Matrix& m, int first, int last, const void* x, const Finish& f) {
    if (m.kernel == Kernel::floats)
        bundles<F, float, NV, false>(m, first, last, static_cast<const float*>(x), f);
#if defined(PRUNEONCE_VBMI)
    else if (m.kernel == Kernel::interleaved)
        interleaved<NV>(m, first, last, static_cast<const uint8_t*>(x), f);
#endif
    else if (m.kernel == Kernel::dense)
        bundles<I, int32_t, NV, true>(m, first, last, static_cast<const int32_t*>(x), f);
    else
        bundles<I, int32_t, NV, false>(m, first, last, static_cast<const int32_t*>(x), f);
}

inline void tile_product(int vectors, const Matrix& m, int first, int last, const void* x, const Finish& f) {
    with_vectors(vectors, [&](auto nv) { tile_product<nv>(m, first, last, x, f); });
}

// Whether the quantized inputs of one product serve another with the same inputs: the same integers in the same order.
inline bool takes_the_same(const Matrix& a, const Matrix& b) {
    return a.inverse == b.inverse && a.zero == b.zero &&
           (a.kernel == Kernel::interleaved) == (b.kernel == Kernel::interleaved);
}

// Dwords of QUAD inputs, each put on uint8: clamp(rint(x / scale) + zero, 0, 255).
struct Quantizer {
    F inverse, low, high;
    I zero;
    explicit Quantizer(const Matrix& m)
        : inverse(broadcast(m.inverse)),
          low(broadcast(static_cast<float>(-m.zero))),
          high(broadcast(static_cast<float>(255 - m.zero))),
          zero(broadcast(m.zero)) {}
    I operator()(F x) const { return add(nearest(min(max(mul(x, inverse), low), high)), zero); }
    template <class Row>
    I quad(Row&& row) const {
        if constexpr (QUAD == 4) {
            const I ab = or_((*this)(row(0)), shift_left<8>((*this)(row(1))));
            const I cd = or_((*this)(row(2)), shift_left<8>((*this)(row(3))));
            return or_(ab, shift_left<16>(cd));
        } else {
            return or_((*this)(row(0)), shift_left<16>((*this)(row(1))));
        }
    }
};

// A tile of NV vectors of float rows as the product wants it: dwords of QUAD inputs, or rows of bytes.
inline void quantize_tile(const Matrix& m, int vectors, const float* x, int32_t* q) {
    const Quantizer quantizer(m);
    const int lanes = vectors * LANES;
#if defined(PRUNEONCE_VBMI)
    if (m.kernel == Kernel::interleaved) {
        auto* bytes = reinterpret_cast<uint8_t*>(q);
        const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
        for (int k = 0; k < m.inputs; ++k, x += lanes, bytes += row_bytes(vectors)) {
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
        return;
    }
#endif
    for (int g = 0; g < m.groups; ++g)
        for (int lane = 0; lane < lanes; lane += LANES)
            store(q + size_t(g) * lanes + lane, quantizer.quad([&](int i) {
                const int k = g * QUAD + i;
                return k < m.inputs ? load(x + size_t(k) * lanes + lane) : broadcast(0.0f);
            }));
}
