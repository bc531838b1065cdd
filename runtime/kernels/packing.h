// The weights of a Linear in the order of the kernel that is fastest for them. Included after products.h.

// QUAD neighbouring inputs as a dword; the last ones may be missing.
inline int32_t quad(const int8_t* w, int count) {
    uint32_t dword = 0;
    for (int i = 0; i < std::min(QUAD, count); ++i)
        dword |= QUAD == 4 ? static_cast<uint32_t>(static_cast<uint8_t>(w[i])) << (8 * i)
                           : static_cast<uint32_t>(static_cast<uint16_t>(w[i])) << (16 * i);
    return static_cast<int32_t>(dword);
}

// Of the weights that are not 0: how many an output has, how many of its groups they occupy, how many stand in each of
// its windows.
struct Counts {
    std::vector<int> kept, occupied, in_window;

    explicit Counts(const Linear& linear) : kept(linear.outputs, 0), occupied(linear.outputs, 0) {
        const int windows = (linear.inputs + WINDOW - 1) / WINDOW;
        in_window.assign(size_t(linear.outputs) * windows, 0);
        for (int r = 0; r < linear.outputs; ++r) {
            const int8_t* row = linear.integers + size_t(r) * linear.inputs;
            for (int k = 0; k < linear.inputs; k += QUAD) occupied[r] += quad(row + k, linear.inputs - k) != 0;
            for (int k = 0; k < linear.inputs; ++k) in_window[size_t(r) * windows + k / WINDOW] += row[k] != 0;
            for (int w = 0; w < windows; ++w) kept[r] += in_window[size_t(r) * windows + w];
        }
    }
};

// Outputs, the longest first, so that none of a bundle waits for another.
inline std::vector<int> longest_first(const std::vector<int>& lengths) {
    std::vector<int> order(lengths.size());
    for (size_t r = 0; r < order.size(); ++r) order[r] = static_cast<int>(r);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return lengths[a] > lengths[b]; });
    return order;
}

// Steps of all bundles of ROWS outputs.
inline size_t steps_of(std::vector<int> lengths) {
    std::sort(lengths.begin(), lengths.end(), std::greater<int>());
    size_t steps = 0;
    for (size_t r = 0; r < lengths.size(); r += ROWS) steps += lengths[r];
    return steps;
}

// Steps of all bundles of 16 outputs, each as long in a window as the longest of them.
inline size_t window_steps(const Counts& counts) {
    const std::vector<int> order = longest_first(counts.kept);
    const size_t windows = counts.in_window.size() / std::max<size_t>(order.size(), 1);
    size_t steps = 0;
    for (size_t first = 0; first < order.size(); first += 16)
        for (size_t w = 0; w < windows; ++w) {
            int longest = 0;
            for (size_t i = first; i < std::min(order.size(), first + 16); ++i)
                longest = std::max(longest, counts.in_window[order[i] * windows + w]);
            steps += (longest + 3) / 4;
        }
    return steps;
}

// A number for each kernel that takes quantized inputs, by its number in `Kernel`.
template <class T>
using Each = std::array<T, 4>;

// Time of a bundle's step for a vector of tokens, in nanoseconds of a Zen 5; what counts is the ratio. Measured with
// benchmarks/engine/kernels.py. Dense, groups, interleaved, windows.
constexpr Each<double> NARROW = {1.2, 1.8, 5.4, 4.1};  // one vector of tokens
constexpr Each<double> WIDE = {1.0, 1.35, 2.7, 4.1};    // more of them

inline std::vector<Kernel> able() {
#if defined(PRUNEONCE_VBMI)
    return {Kernel::dense, Kernel::groups, Kernel::interleaved, Kernel::windows};
#else
    return {Kernel::dense, Kernel::groups};
#endif
}

inline Kernel kernel_of(const std::string& name) {
    for (Kernel kernel : able())
        if (name == KERNELS[static_cast<int>(kernel)]) return kernel;
    throw std::invalid_argument("these instructions have no kernel of the name " + name);
}

// Steps of the bundles of a Linear by each kernel.
inline Each<size_t> steps_by_kernel(const Linear& linear) {
    const Counts counts(linear);
    std::vector<int> quarters(counts.kept);
    for (int& count : quarters) count = (count + 3) / 4;
    const size_t dense = steps_of(std::vector<int>(linear.outputs, (linear.inputs + QUAD - 1) / QUAD));
    return {dense, steps_of(counts.occupied), steps_of(quarters), window_steps(counts)};
}

inline Kernel fastest(const Each<size_t>& steps, const Each<double>& costs) {
    auto time = [&](Kernel kernel) { return costs[static_cast<int>(kernel)] * steps[static_cast<int>(kernel)]; };
    const std::vector<Kernel> all = able();
    return *std::min_element(all.begin(), all.end(), [&](Kernel a, Kernel b) { return time(a) < time(b); });
}

// One step of an output: QUAD weights and where their inputs are.
struct Step {
    uint16_t where[4];
    int32_t weights;
};

inline std::vector<Step> steps_of_row(const Linear& linear, Kernel kernel, int r) {
    std::vector<Step> steps;
    if (kernel == Kernel::floats) {
        const int groups_of_scale = linear.scales > linear.outputs ? linear.scales / linear.outputs : 1;
        const int per_scale = linear.inputs / groups_of_scale;
        for (int k = 0; k < linear.inputs; ++k) {
            const size_t at = size_t(r) * linear.inputs + k;
            const int s = linear.scales == 1 ? 0 : r * groups_of_scale + k / per_scale;
            const float w = linear.integers ? static_cast<float>(linear.integers[at]) * linear.scale[s] : linear.floats[at];
            if (w == 0) continue;
            int32_t dword;
            std::memcpy(&dword, &w, 4);
            steps.push_back({{static_cast<uint16_t>(k)}, dword});
        }
        return steps;
    }
    const int8_t* row = linear.integers + size_t(r) * linear.inputs;
    if (kernel == Kernel::interleaved) {
        Step step{};
        int8_t weights[4] = {};
        int count = 0;
        for (int k = 0; k < linear.inputs; ++k) {
            if (row[k] == 0) continue;
            step.where[count] = static_cast<uint16_t>(k);
            weights[count] = row[k];
            step.weights = quad(weights, ++count);
            if (count < 4) continue;
            steps.push_back(step);
            step = Step{};
            count = 0;
        }
        if (count) steps.push_back(step);
        return steps;
    }
    for (int k = 0; k < linear.inputs; k += QUAD)
        if (const int32_t w = quad(row + k, linear.inputs - k); w != 0 || kernel == Kernel::dense)
            steps.push_back({{static_cast<uint16_t>(k / QUAD)}, w});
    return steps;
}

// Fills `bundles`, `weights` and what says where their inputs are, in bundles of ROWS outputs.
inline void pack_rows(const Linear& linear, Matrix& m) {
    const bool grouped = m.kernel == Kernel::groups;
    m.panels = grouped ? std::max(1, (m.groups + PANEL - 1) / PANEL) : 1;
    std::vector<std::vector<std::vector<Step>>> steps(linear.outputs);  // [row][panel]
    std::vector<int> lengths(linear.outputs);
    for (int r = 0; r < linear.outputs; ++r) {
        steps[r].resize(m.panels);
        for (const Step& step : steps_of_row(linear, m.kernel, r)) {
            steps[r][grouped ? step.where[0] / PANEL : 0].push_back(step);
            ++lengths[r];
        }
    }
    const std::vector<int> order = longest_first(lengths);
    const int all = linear.outputs, strip = m.panels == 1 ? std::max(1, all) : STRIP * ROWS;
    for (int first = 0; first < all; first += strip)
        for (int panel = 0; panel < m.panels; ++panel) {
            std::vector<int> in_panel;
            for (int i = first; i < std::min(all, first + strip); ++i)
                in_panel.push_back(static_cast<int>(steps[order[i]][panel].size()));
            const std::vector<int> slots = longest_first(in_panel);
            for (size_t at = 0; at < slots.size(); at += ROWS) {
                Bundle bundle{in_panel[slots[at]], m.weights.size(), {}, {}};
                const size_t end = bundle.first + size_t(bundle.steps) * ROWS;
                m.weights.resize(end, 0);
                if (grouped) m.group.resize(end, 0);
                const size_t places = m.kernel == Kernel::interleaved ? 4 : m.kernel == Kernel::floats ? 1 : 0;
                m.where.resize(end * places, 0);
                for (int i = 0; i < ROWS; ++i) {
                    const bool there = at + i < slots.size();
                    bundle.rows[i] = there ? order[first + slots[at + i]] : -1;
                    bundle.slots[i] = static_cast<uint8_t>(at + i);
                    if (!there) continue;
                    bundle.slots[i] = static_cast<uint8_t>(slots[at + i]);
                    size_t to = bundle.first + i;
                    for (const Step& step : steps[bundle.rows[i]][panel]) {
                        m.weights[to] = step.weights;
                        if (grouped) m.group[to] = static_cast<uint8_t>(step.where[0] % PANEL);
                        std::copy(step.where, step.where + places, m.where.begin() + to * places);
                        to += ROWS;
                    }
                }
                m.bundles.push_back(bundle);
            }
        }
}

#if defined(PRUNEONCE_VBMI)

// Fills `bundles`, `weights` and `picks`, [steps][16] dwords each, and `steps`, [bundles][windows].
inline void pack_windows(const Linear& linear, Matrix& m) {
    std::vector<int> kept(linear.outputs);
    for (int r = 0; r < linear.outputs; ++r) {
        const int8_t* row = linear.integers + size_t(r) * linear.inputs;
        kept[r] = linear.inputs - static_cast<int>(std::count(row, row + linear.inputs, 0));
    }
    const std::vector<int> order = longest_first(kept);
    for (int first = 0; first < linear.outputs; first += LANES) {
        Bundle bundle{0, m.weights.size(), {}, {}};
        for (int i = 0; i < LANES; ++i) bundle.rows[i] = first + i < linear.outputs ? order[first + i] : -1;
        for (int begin = 0; begin < linear.inputs; begin += WINDOW) {
            const int end = std::min(linear.inputs, begin + WINDOW);
            const size_t at = m.weights.size();
            int steps = 0;
            for (int i = 0; i < LANES && bundle.rows[i] >= 0; ++i) {
                const int8_t* row = linear.integers + size_t(bundle.rows[i]) * linear.inputs;
                for (int k = begin, count = 0; k < end; ++k) {
                    if (row[k] == 0) continue;
                    if (count / 4 == steps) {
                        m.weights.resize(at + size_t(++steps) * LANES, 0);
                        m.picks.resize(4 * m.weights.size(), 0);
                    }
                    const size_t byte = 4 * (at + size_t(count / 4) * LANES + i) + count % 4;
                    reinterpret_cast<int8_t*>(m.weights.data())[byte] = row[k];
                    m.picks[byte] = static_cast<uint8_t>(k - begin);
                    ++count;
                }
            }
            m.steps.push_back(static_cast<uint8_t>(steps));  // at most 16
            bundle.steps += steps;
        }
        m.bundles.push_back(bundle);
    }
}

#endif

inline bool has_integer_inputs(const Linear& linear) { return linear.integers && linear.input_scale > 0; }

inline Matrix pack(const Linear& linear, Kernel kernel) {
    Matrix m;
    const bool is_integer = has_integer_inputs(linear);
    m.outputs = linear.outputs;
    m.inputs = linear.inputs;
    m.kernel = kernel;
    m.groups = is_integer ? (linear.inputs + QUAD - 1) / QUAD : linear.inputs;
    if (is_integer) {
        m.inverse = 1.0f / linear.input_scale;
        m.zero = linear.input_zero;
    }
    size_t kept = 0;
    for (int r = 0; r < linear.outputs; ++r) {
        int32_t sum = 0;
        for (int k = 0; k < linear.inputs; ++k) {
            const size_t at = size_t(r) * linear.inputs + k;
            kept += linear.integers ? linear.integers[at] != 0 : linear.floats[at] != 0;
            if (is_integer) sum += linear.integers[at];
        }
        m.start.push_back(-linear.input_zero * sum);
        m.scale.push_back(is_integer ? linear.scale[linear.scales == 1 ? 0 : r] * linear.input_scale : 1.0f);
        m.bias.push_back(linear.bias ? linear.bias[r] : 0.0f);
    }
#if defined(PRUNEONCE_VBMI)
    if (m.kernel == Kernel::windows) {
        m.groups = token_bytes(linear.inputs) / QUAD;
        pack_windows(linear, m);
    } else
#endif
        pack_rows(linear, m);
    const double all = std::max(1.0, double(linear.outputs) * linear.inputs);
    m.kept = double(kept) / all;
    m.work = double(m.weights.size()) * (is_integer ? QUAD : 1) / all;
    return m;
}

// A Linear in the order of the fastest kernel: for calls of up to a vector of tokens, and for longer ones, where that is
// another. `kernel` names the one to take in both, unless it is empty.
class Packed {
    Matrix wide_;
    std::optional<Matrix> narrow_;

public:
    explicit Packed(const Linear& linear, const std::string& kernel = "") {
        if (!has_integer_inputs(linear)) {
            wide_ = pack(linear, Kernel::floats);
        } else if (!kernel.empty()) {
            wide_ = pack(linear, kernel_of(kernel));
        } else {
            const Each<size_t> steps = steps_by_kernel(linear);
            const Kernel wide = fastest(steps, WIDE), narrow = fastest(steps, NARROW);
            wide_ = pack(linear, wide);
            if (narrow != wide) narrow_ = pack(linear, narrow);
        }
    }
    const Matrix& of(bool narrow) const { return narrow && narrow_ ? *narrow_ : wide_; }
    int outputs() const { return wide_.outputs; }
    Choice choice() const {
        const Matrix &wide = of(false), &narrow = of(true);
        return {KERNELS[static_cast<int>(wide.kernel)], KERNELS[static_cast<int>(narrow.kernel)], wide.outputs, wide.inputs,
                wide.kept, wide.work, narrow.work};
    }
};
