// Products of a matrix with columns of tokens. Included inside a namespace for each instruction set.
//
// Tokens are the lanes: activations of a tile of up to 4 vectors of tokens stand as [inputs / QUAD][tokens] dwords, a
// dword being QUAD neighbouring inputs of one token. A group of weights is QUAD neighbouring inputs of one output, in a
// dword too. For each group that has a weight other than 0, one vector of tokens is loaded and multiplied with the
// group, broadcast. Float weights are groups of one input.

constexpr int ROWS = 8;    // rows of a bundle, which have the same number of steps
constexpr int MOST_ROWS = std::max(ROWS, LANES);  // of a bundle of `windows`
constexpr int VECTORS = 4; // of a tile, at most
constexpr int WINDOW = 64; // inputs of which `windows` picks QUAD
constexpr int PANEL = 192;  // groups of a row that `groups` does at a time: a tile of so many stays in the first cache
constexpr int AHEAD = 1024; // bytes of weights to ask for in advance: processors stop at the end of a page
constexpr int STRIP = 12;   // bundles of a strip, which does one panel after the other

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
    size_t first;         // of its entries in `weights` and in what says where their inputs are, [steps][rows]
    int rows[MOST_ROWS];  // outputs; -1: none
    std::array<uint8_t, ROWS> slots;  // of `groups`: their places in the strip
};

// `dense` does all groups; `groups` those with a weight other than 0, a panel of inputs at a time; `interleaved` any QUAD inputs of an output, whose
// bytes of a tile stand apart and are brought together on the way; `windows` any QUAD of 64 neighbouring inputs, for 16
// outputs at a time; `floats` has one weight a group.
enum class Kernel { dense, groups, interleaved, windows, floats };
constexpr const char* KERNELS[] = {"dense", "groups", "interleaved", "windows", "floats"};

// How a tile of quantized inputs stands.
enum class Order { quads, rows, tokens };
inline Order order_of(Kernel kernel) {
    return kernel == Kernel::interleaved ? Order::rows : kernel == Kernel::windows ? Order::tokens : Order::quads;
}

struct Matrix {
    Kernel kernel = Kernel::dense;
    int outputs = 0, inputs = 0;
    int groups = 0;                 // of a row: inputs / QUAD rounded up, or inputs of float weights
    double kept = 0, work = 0;
    std::vector<Bundle> bundles;    // of `groups`: strips, in them panels, in them up to STRIP bundles
    int panels = 1;                 // of `groups`
    Aligned<uint8_t> group;         // of `groups`: number of the group in its panel
    Aligned<uint16_t> where;        // of `interleaved` four numbers of inputs, of `floats` one
    Aligned<int32_t> weights;       // int8 x 4, int16 x 2, or a float
    Aligned<int32_t> start;         // [outputs]: -zero * sum of the weights
    Aligned<float> scale, bias;     // [outputs]
    float inverse = 0;              // 1 / input scale; 0: float inputs
    int zero = 0;
    Aligned<uint8_t> picks, steps;  // of `windows`: see windows.h
    bool is_float() const { return kernel == Kernel::floats; }
    // That can be done one by one: strips where there are more panels than one, else bundles.
    int parts() const {
        const int all = static_cast<int>(bundles.size());
        return panels == 1 ? all : (all / panels + STRIP - 1) / STRIP;
    }
};

// What is done with the sums of an output: `activation(sum * scale + bias + residual)`. Data and not a template, so that
// each kernel is compiled once a width.
struct Finish {
    float* to = nullptr;              // row r of a tile is to + r * stride
    const float* residual = nullptr;  // likewise
    int32_t* sums = nullptr;          // takes the integer sums as they are, in place of all that
    size_t stride = 0;
    Activation activation = Activation::none;
};

void activate(Activation activation, float* to, size_t stride, const int* rows, int count, int vectors);

PRUNEONCE_INLINE void finish(const Matrix& m, const Finish& f, int row, int v, F sum) {
    const size_t at = size_t(row) * f.stride + size_t(v) * LANES;
    F value = fma(sum, broadcast(m.scale[row]), broadcast(m.bias[row]));  // scale is 1 of float weights
    if (f.residual) value = add(value, load(f.residual + at));
    store(f.to + at, value);
}

PRUNEONCE_INLINE void finish(const Matrix& m, const Finish& f, int row, int v, I sum) {
    if (f.sums)
        store(f.sums + size_t(row) * f.stride + size_t(v) * LANES, sum);
    else
        finish(m, f, row, v, real(sum));
}

template <int R, int NV, class T>
PRUNEONCE_INLINE void begin(const Matrix& m, const Bundle& bundle, int first_row, T (&sums)[R][NV]) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) {
            if constexpr (std::is_same_v<T, I>)
                sums[r][v] = broadcast(bundle.rows[first_row + r] < 0 ? 0 : m.start[bundle.rows[first_row + r]]);
            else
                sums[r][v] = broadcast(0.0f);
        }
}

template <int R, int NV, class T>
PRUNEONCE_INLINE void end(const Matrix& m, const Finish& f, const Bundle& bundle, int first_row, const T (&sums)[R][NV]) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
        if (bundle.rows[first_row + r] >= 0)
#pragma GCC unroll 8
            for (int v = 0; v < NV; ++v) finish(m, f, bundle.rows[first_row + r], v, sums[r][v]);
    if (f.activation != Activation::none) activate(f.activation, f.to, f.stride, bundle.rows + first_row, R, NV);
}

PRUNEONCE_INLINE F multiply(F sum, F x, int32_t w) {
    float value;
    std::memcpy(&value, &w, 4);
    return fma(x, broadcast(value), sum);
}

// Sums of R rows of a bundle of `floats`, from `first_row` on, for NV vectors of tokens.
template <int R, int NV>
PRUNEONCE_INLINE void float_sums(const Matrix& m, const Bundle& bundle, int first_row, const float* x, const Finish& f) {
    F sums[R][NV];
    const int32_t* weights = m.weights.data() + bundle.first + first_row;
    const uint16_t* where = m.where.data() + bundle.first + first_row;
    begin(m, bundle, first_row, sums);
    for (int s = 0; s < bundle.steps; ++s, weights += ROWS, where += ROWS)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const float* column = x + size_t(where[r]) * NV * LANES;
#pragma GCC unroll 8
            for (int v = 0; v < NV; ++v) sums[r][v] = multiply(sums[r][v], load(column + v * LANES), weights[r]);
        }
    end(m, f, bundle, first_row, sums);
}

// The weights of R rows, each in every lane of a vector. Four come by one load, since there are two loads a cycle, and
// the inputs need them.
template <int R>
PRUNEONCE_INLINE void spread(const int32_t* weights, I (&all)[R]) {
    if constexpr (R < 4) {
        for (int r = 0; r < R; ++r) all[r] = broadcast(weights[r]);
    } else {
#pragma GCC unroll 2
        for (int r = 0; r < R; r += 4) {
            const I some = four(weights + r);
            all[r] = pick<0>(some);
            all[r + 1] = pick<1>(some);
            all[r + 2] = pick<2>(some);
            all[r + 3] = pick<3>(some);
        }
    }
}

// The same of `dense`.
template <int R, int NV>
PRUNEONCE_INLINE void dense_sums(const Matrix& m, const Bundle& bundle, int first_row, const int32_t* x, const Finish& f) {
    I sums[R][NV];
    const int32_t* weights = m.weights.data() + bundle.first + first_row;
    begin(m, bundle, first_row, sums);
    for (int s = 0; s < bundle.steps; ++s, weights += ROWS, x += NV * LANES) {
        I columns[NV];
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) columns[v] = load(x + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < NV; ++v) sums[r][v] = dot(sums[r][v], columns[v], broadcast(weights[r]));
    }
    end(m, f, bundle, first_row, sums);
}

// The same of `groups` and one panel of inputs, whose `x` begins with it. Between panels the sums stand in `between`,
// [rows of the strip][tokens].
template <int R, int NV>
PRUNEONCE_INLINE void group_sums(const Matrix& m, const Bundle& bundle, int first_row, const int32_t* x, const Finish& f,
                                 int32_t* between, bool is_first, bool is_last) {
    I sums[R][NV];
    const int32_t* weights = m.weights.data() + bundle.first + first_row;
    const uint8_t* group = m.group.data() + bundle.first + first_row;
    if (is_first) {
        begin(m, bundle, first_row, sums);
    } else {
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < NV; ++v) sums[r][v] = load(between + (bundle.slots[first_row + r] * NV + v) * LANES);
    }
    for (int s = 0; s < bundle.steps; ++s, weights += ROWS, group += ROWS) {
        prefetch(weights + AHEAD / 4);
        uint64_t numbers = 0;
        std::memcpy(&numbers, group, R);
        I spread_weights[R];
        spread(weights, spread_weights);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const int32_t* column = x + size_t(numbers >> (8 * r) & 255) * (NV * LANES);
#pragma GCC unroll 8
            for (int v = 0; v < NV; ++v) sums[r][v] = dot(sums[r][v], load(column + v * LANES), spread_weights[r]);
        }
    }
    if (is_last) {
        end(m, f, bundle, first_row, sums);
    } else {
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < NV; ++v) store(between + (bundle.slots[first_row + r] * NV + v) * LANES, sums[r][v]);
    }
}

// As many rows at once as there are registers for.
constexpr int rows_at_once(int vectors) {
    constexpr int registers = LANES == 16 ? 16 : 8;
    return vectors >= registers ? 1 : std::min(ROWS, registers / vectors >= 8 ? 8 : registers / vectors >= 4 ? 4 : registers / vectors >= 2 ? 2 : 1);
}

// The bundles from `first` to `last`: body(bundle, first row) for R rows at a time.
template <int R, class Body>
PRUNEONCE_INLINE void each_bundle(const Matrix& m, int first, int last, Body&& body) {
    for (int b = first; b < last; ++b)
        for (int row = 0; row < ROWS; row += R) body(m.bundles[b], row);
}

// The parts of `groups` from `first` to `last`.
template <int NV>
inline void groups(const Matrix& m, int first, int last, const int32_t* x, const Finish& f) {
    constexpr int R = rows_at_once(NV);
    auto sums = [&](int from, int to, int panel, int32_t* between) {
        const int32_t* inputs = x + size_t(panel) * PANEL * NV * LANES;
        each_bundle<R>(m, from, to, [&](const Bundle& bundle, int row) {
            group_sums<R, NV>(m, bundle, row, inputs, f, between, panel == 0, panel == m.panels - 1);
        });
    };
    if (m.panels == 1) return sums(first, last, 0, nullptr);
    alignas(64) int32_t between[STRIP * ROWS * NV * LANES];
    const int all = static_cast<int>(m.bundles.size()) / m.panels;
    for (int strip = first; strip < last; ++strip) {
        const int count = std::min(STRIP, all - strip * STRIP);
        for (int panel = 0; panel < m.panels; ++panel) {
            const int from = strip * STRIP * m.panels + panel * count;
            sums(from, from + count, panel, between);
        }
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
    PRUNEONCE_INLINE I operator()(F x) const { return add(nearest(min(max(mul(x, inverse), low), high)), zero); }
    // QUAD rows of floats, `stride` apart, as one vector of dwords; of the last group some rows may be missing.
    PRUNEONCE_INLINE I quad(const float* x, int stride, int rows) const {
        I all = (*this)(load(x));
        if (rows > 1) all = or_(all, shift_left<32 / QUAD>((*this)(load(x + stride))));
        if constexpr (QUAD == 4) {
            if (rows > 2) all = or_(all, shift_left<16>((*this)(load(x + 2 * stride))));
            if (rows > 3) all = or_(all, shift_left<24>((*this)(load(x + 3 * stride))));
        }
        return all;
    }
};

#if defined(PRUNEONCE_VBMI)
#include "interleaved.h"
#include "windows.h"
#endif

// The parts from `first` to `last` over one tile of NV vectors.
template <int NV>
void tile_product(const Matrix& m, int first, int last, const void* x, const Finish& f) {
    constexpr int R = rows_at_once(NV);
    if (m.kernel == Kernel::floats)
        each_bundle<R>(m, first, last, [&](const Bundle& bundle, int row) {
            float_sums<R, NV>(m, bundle, row, static_cast<const float*>(x), f);
        });
#if defined(PRUNEONCE_VBMI)
    else if (m.kernel == Kernel::interleaved)
        interleaved<NV>(m, first, last, static_cast<const uint8_t*>(x), f);
    else if (m.kernel == Kernel::windows)
        windows(NV, m, first, last, static_cast<const uint8_t*>(x), f);
#endif
    else if (m.kernel == Kernel::dense)
        each_bundle<R>(m, first, last, [&](const Bundle& bundle, int row) {
            dense_sums<R, NV>(m, bundle, row, static_cast<const int32_t*>(x), f);
        });
    else
        groups<NV>(m, first, last, static_cast<const int32_t*>(x), f);
}

inline void tile_product(int vectors, const Matrix& m, int first, int last, const void* x, const Finish& f) {
    with_vectors(vectors, [&](auto nv) { tile_product<nv>(m, first, last, x, f); });
}

// Whether the quantized inputs of one product serve another with the same inputs: the same integers in the same order.
inline bool takes_the_same(const Matrix& a, const Matrix& b) {
    return a.inverse == b.inverse && a.zero == b.zero && order_of(a.kernel) == order_of(b.kernel);
}

// Inputs from `first` to `last` of a tile of float rows as the product wants them: dwords of QUAD inputs, or rows of
// bytes. `first` is a multiple of WINDOW, and `last` as well or the end.
inline void quantize_tile(const Matrix& m, int vectors, const float* x, int32_t* q, int first, int last) {
    const Quantizer quantizer(m);
    const int lanes = vectors * LANES;
#if defined(PRUNEONCE_VBMI)
    if (m.kernel == Kernel::interleaved)
        return quantize_rows(quantizer, vectors, x, reinterpret_cast<uint8_t*>(q), first, last);
    if (m.kernel == Kernel::windows)
        return quantize_tokens(m, quantizer, vectors, x, reinterpret_cast<uint8_t*>(q), first, last);
#endif
    for (int g = first / QUAD; g < (last + QUAD - 1) / QUAD; ++g)
        for (int lane = 0; lane < lanes; lane += LANES)
            store(q + size_t(g) * lanes + lane, quantizer.quad(x + size_t(g) * QUAD * lanes + lane, lanes, std::min(QUAD, m.inputs - g * QUAD)));
}
