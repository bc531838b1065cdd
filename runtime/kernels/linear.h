// One Linear by itself, for one instruction set; included after packing.h.

class ProductAlone final : public Product {
    Packed packed_;

    // Tiles of rows of x, as the product wants them: use(matrix, tile, first row, rows, vectors).
    template <class Use>
    void tiles(const float* x, int rows, Use&& use) const {
        const Matrix& m = packed_.of(rows <= LANES);
        const int most = std::min((rows + LANES - 1) / LANES, VECTORS) * LANES;
        Aligned<float> columns(size_t(m.inputs) * most);
        Aligned<int32_t> quads(m.is_float() ? 0 : size_t(m.groups) * VECTORS * LANES);  // rows of bytes fill a whole tile
        for (int first = 0; first < rows; first += most) {
            const int count = std::min(most, rows - first), vectors = (count + LANES - 1) / LANES, lanes = vectors * LANES;
            for (int k = 0; k < m.inputs; ++k)
                for (int i = 0; i < lanes; ++i)
                    columns[size_t(k) * lanes + i] = i < count ? x[size_t(first + i) * m.inputs + k] : 0.0f;
            if (!m.is_float()) quantize_tile(m, vectors, columns.data(), quads.data(), 0, m.inputs);
            use(m, m.is_float() ? static_cast<const void*>(columns.data()) : quads.data(), first, count, vectors);
        }
    }

    template <class T, class Output>
    void all(const float* x, int rows, T* y, Output&& output) const {
        Aligned<T> out;
        tiles(x, rows, [&](const Matrix& m, const void* in, int first, int count, int vectors) {
            const int lanes = vectors * LANES;
            out.resize(size_t(m.outputs) * lanes);
            Finish f;
            f.stride = lanes;
            output(f) = out.data();
            tile_product(vectors, m, 0, m.parts(), in, f);
            for (int row = 0; row < m.outputs; ++row)
                for (int i = 0; i < count; ++i) y[size_t(first + i) * m.outputs + row] = out[size_t(row) * lanes + i];
        });
    }

public:
    ProductAlone(const Linear& linear, const std::string& kernel) : packed_(linear, kernel) {}

    void run(const float* x, int rows, float* y) const override {
        all(x, rows, y, [](Finish& f) -> float*& { return f.to; });
    }

    void sums(const float* x, int rows, int32_t* y) const override {
        all(x, rows, y, [](Finish& f) -> int32_t*& { return f.sums; });
    }

    Choice choice() const override { return packed_.choice(); }
};

double peak() {
    constexpr int COUNT = 10, TURNS = 100000;  // more sums at a time than a product takes cycles
    I sums[COUNT];
    for (I& sum : sums) sum = broadcast(0);
    const I x = broadcast(0x01010101), w = broadcast(0x01010101);
    double best = 0;
    for (int run = 0; run < 20; ++run) {
        const auto start = std::chrono::steady_clock::now();
        for (int turn = 0; turn < TURNS; ++turn)
#pragma GCC unroll 10
            for (int i = 0; i < COUNT; ++i) sums[i] = kept(dot(sums[i], x, w));
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        best = std::max(best, double(COUNT) * TURNS * LANES * QUAD / seconds);
    }
    alignas(64) volatile int32_t kept_sums[LANES];
    for (const I& sum : sums) store(const_cast<int32_t*>(kept_sums), sum);  // so that they are calculated
    return best;
}
