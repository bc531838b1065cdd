// Products of a matrix with columns of tokens. Included inside a namespace for each instruction set.
//
// Tokens are the lanes: activations of a tile of up to 4 vectors of tokens stand as [inputs / QUAD][tokens] dwords, a
// dword being QUAD neighbouring inputs of one token. A group of weights is QUAD neighbouring inputs of one output, in a
// dword too. For each group that has a weight other than 0, one vector of tokens is loaded and multiplied with the
// group, broadcast. Float weights are groups of one input.

constexpr int ROWS = 8;    // rows of a bundle, which have the same number of steps
constexpr int VECTORS = 4; // of a tile, at most

struct Bundle {
    int steps;
    size_t first;         // of its entries in `where` and `weights`, [steps][ROWS]
    int rows[ROWS];       // outputs; -1: none
};

enum class Kernel { dense, groups, floats };

struct Matrix {
    Kernel kernel = Kernel::dense;
    int outputs = 0, inputs = 0;
    int groups = 0;                 // of a row: inputs / QUAD rounded up, or inputs of float weights
    double kept = 0, work = 0;
    std::vector<Bundle> bundles;
    Aligned<uint16_t> where;        // number of the group; none for `dense`, whose step is its group
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

inline Matrix pack(const Linear& linear) {
    Matrix m;
    m.outputs = linear.outputs;
    m.inputs = linear.inputs;
    const bool is_integer = linear.integers && linear.input_scale > 0;
    m.groups = is_integer ? (linear.inputs + QUAD - 1) / QUAD : linear.inputs;
    m.kernel = !is_integer ? Kernel::floats : occupied(linear) >= DENSE_FROM ? Kernel::dense : Kernel::groups;
    std::vector<std::vector<std::pair<uint16_t, int32_t>>> rows(linear.outputs);
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
        if (is_integer) {
            for (int g = 0; g < m.groups; ++g) {
                const int32_t w = quad(linear.integers + at + g * QUAD, std::min(QUAD, linear.inputs - g * QUAD));
                if (w != 0 || m.kernel == Kernel::dense) rows[r].emplace_back(static_cast<uint16_t>(g), w);
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
                rows[r].emplace_back(static_cast<uint16_t>(k), dword);
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
    if (m.kernel != Kernel::dense) m.where.resize(steps * ROWS);
    for (const Bundle& bundle : m.bundles)
        for (int i = 0; i < ROWS; ++i) {
            const auto* row = bundle.rows[i] < 0 ? nullptr : &rows[bundle.rows[i]];
            for (int s = 0; s < bundle.steps; ++s) {
                const bool is_there = row && s < static_cast<int>(row->size());
                const size_t at = bundle.first + size_t(s) * ROWS + i;
                m.weights[at] = is_there ? (*row)[s].second : 0;
                if (m.kernel != Kernel::dense) m.where[at] = is_there ? (*row)[s].first : 0;
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

inline void finish(const Matrix& m, const Finish& f, int row, int v, I sum) {
    const size_t at = size_t(row) * f.stride + size_t(v) * LANES;
    if (f.sums) {
        store(f.sums + at, sum);
        return;
    }
    F value = fma(real(sum), broadcast(m.scale[row]), broadcast(m.bias[row]));
    if (f.activation != Activation::none) value = activate(f.activation, value);
    if (f.residual) value = add(value, load(f.residual + at));
    store(f.to + at, value);
}

inline void finish(const Matrix& m, const Finish& f, int row, int v, F sum) {
    const size_t at = size_t(row) * f.stride + size_t(v) * LANES;
    F value = add(sum, broadcast(m.bias[row]));
    if (f.activation != Activation::none) value = activate(f.activation, value);
    if (f.residual) value = add(value, load(f.residual + at));
    store(f.to + at, value);
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
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < NV; ++v) {
            if constexpr (std::is_integral_v<E>)
                sums[r][v] = broadcast(bundle.rows[first_row + r] < 0 ? 0 : m.start[bundle.rows[first_row + r]]);
            else
                sums[r][v] = broadcast(0.0f);
        }
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
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
        if (bundle.rows[first_row + r] >= 0)
#pragma GCC unroll 8
            for (int v = 0; v < NV; ++v) finish(m, f, bundle.rows[first_row + r], v, sums[r][v]);
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

// The bundles from `first` to `last` over one tile of NV vectors.
template <int NV>
void tile_product(const Matrix& m, int first, int last, const void* x, const Finish& f) {
    if (m.kernel == Kernel::floats)
        bundles<F, float, NV, false>(m, first, last, static_cast<const float*>(x), f);
    else if (m.kernel == Kernel::dense)
        bundles<I, int32_t, NV, true>(m, first, last, static_cast<const int32_t*>(x), f);
    else
        bundles<I, int32_t, NV, false>(m, first, last, static_cast<const int32_t*>(x), f);
}

inline void tile_product(int vectors, const Matrix& m, int first, int last, const void* x, const Finish& f) {
    switch (vectors) {
        case 1: tile_product<1>(m, first, last, x, f); break;
        case 2: tile_product<2>(m, first, last, x, f); break;
        case 3: tile_product<3>(m, first, last, x, f); break;
        default: tile_product<4>(m, first, last, x, f); break;
    }
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
