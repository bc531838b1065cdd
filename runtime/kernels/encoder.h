// The encoder for one instruction set; included inside its namespace, after simd.h and products.h.
//
// All activations are float32 [feature][token] in tiles: a tile is up to VECTORS vectors of tokens, its rows contiguous.
// Texts stand end to end, so a tile may hold the end of one text and the beginning of the next. Everything but attention
// is done lane by lane, so no text's bits depend on its neighbours.

struct Tile {
    int first;    // token
    int vectors;  // 1 to VECTORS
    int lanes() const { return vectors * LANES; }
};

// Tokens of tiles, those that fill up the last vector included.
inline int padded(const std::vector<Tile>& tiles) { return tiles.back().first + tiles.back().lanes(); }

// Rows of all tiles, one tile after the other: row r of tile t begins at tile(t) + r * lanes.
template <class T>
struct Tiled {
    Aligned<T> values;
    int rows = 0;
    void reshape(int count, int tokens) {
        rows = count;
        if (values.size() < size_t(count) * tokens) values.resize(size_t(count) * tokens);
    }
    T* tile(const Tile& t) { return values.data() + size_t(rows) * t.first; }
    const T* tile(const Tile& t) const { return values.data() + size_t(rows) * t.first; }
};
using Rows = Tiled<float>;
using Quads = Tiled<int32_t>;  // quantized inputs of a product, [inputs / QUAD][tokens] dwords a tile

#include "attention.h"

// x / (1 + e^-x) and the like.
PRUNEONCE_INLINE F logistic(F x) {
    const F e = exponential(min(x, sub(broadcast(0.0f), x)));  // e^-|x|
    const F low = div(e, add(broadcast(1.0f), e));             // of -|x|
    const F high = div(broadcast(1.0f), add(broadcast(1.0f), e));
    return select_within(high, x, broadcast(0.0f), broadcast(3.4e38f), low);
}
PRUNEONCE_INLINE F tangent(F x) { return fma(broadcast(2.0f), logistic(add(x, x)), broadcast(-1.0f)); }

// x times the normal distribution function, which is 1/2 + x P(x^2) / Q(x^2) up to |x| = 5.2, by a fit of our own to
// within 3e-9, and 0 or 1 to within 1e-7 beyond.
PRUNEONCE_INLINE F gelu(F x) {
    const F c = max(min(x, broadcast(5.2f)), broadcast(-5.2f));
    const F u = mul(c, c);
    F p = broadcast(2.4733489922823537e-08f);
    p = fma(p, u, broadcast(6.4077303250087425e-06f));
    p = fma(p, u, broadcast(0.00015683405217714608f));
    p = fma(p, u, broadcast(0.004608479794114828f));
    p = fma(p, u, broadcast(0.03254183009266853f));
    p = fma(p, u, broadcast(0.3989422619342804f));
    F q = broadcast(1.258925522051868e-06f);
    q = fma(q, u, broadcast(7.048741827020422e-05f));
    q = fma(q, u, broadcast(0.0018170472467318177f));
    q = fma(q, u, broadcast(0.02792513370513916f));
    q = fma(q, u, broadcast(0.24823661148548126f));
    q = fma(q, u, broadcast(1.0f));
    return mul(x, fma(c, mul(p, reciprocal(q)), broadcast(0.5f)));
}

PRUNEONCE_INLINE F gelu_tanh(F x) {
    const F inner = mul(broadcast(0.7978845608028654f), fma(mul(broadcast(0.044715f), mul(x, x)), x, x));
    return mul(mul(broadcast(0.5f), x), add(broadcast(1.0f), tangent(inner)));
}

// Values become activation(values), in `vectors` vectors of each of `count` rows that there are; row r is to + r * stride.
void activate(Activation activation, float* to, size_t stride, const int* rows, int count, int vectors) {
    auto all = [&](auto&& function) PRUNEONCE_INLINE_LAMBDA {
        for (int i = 0; i < count; ++i) {
            if (rows[i] < 0) continue;
            float* values = to + size_t(rows[i]) * stride;
            for (int v = 0; v < vectors; ++v) store(values + v * LANES, function(load(values + v * LANES)));
        }
    };
    switch (activation) {
        case Activation::gelu: return all([](F x) PRUNEONCE_INLINE_LAMBDA { return gelu(x); });
        case Activation::gelu_tanh: return all([](F x) PRUNEONCE_INLINE_LAMBDA { return gelu_tanh(x); });
        case Activation::relu: return all([](F x) PRUNEONCE_INLINE_LAMBDA { return max(x, broadcast(0.0f)); });
        case Activation::silu: return all([](F x) PRUNEONCE_INLINE_LAMBDA { return mul(x, logistic(x)); });
        case Activation::tanh: return all([](F x) PRUNEONCE_INLINE_LAMBDA { return tangent(x); });
        default: return;
    }
}

struct OwnNorm {
    Aligned<float> weight, bias;
    float eps = 0;
    OwnNorm() = default;
    OwnNorm(const Norm& norm, int width) : weight(norm.weight, norm.weight + width), bias(width, 0.0f), eps(norm.eps) {
        if (norm.bias) bias.assign(norm.bias, norm.bias + width);
    }
};

// `to` += row r.
inline void add_row(const Table& table, int r, float* to) {
    const size_t first = size_t(r) * table.width;
    int k = 0;
    if (table.integers) {
        const int8_t* row = table.integers + first;
        const float scale = table.scale[r];
        for (; k + LANES <= table.width; k += LANES) store(to + k, fma(from_bytes(row + k), broadcast(scale), load(to + k)));
        for (; k < table.width; ++k) to[k] += static_cast<float>(row[k]) * scale;
    } else {
        const float* row = table.floats + first;
        for (; k + LANES <= table.width; k += LANES) store(to + k, add(load(row + k), load(to + k)));
        for (; k < table.width; ++k) to[k] += row[k];
    }
}

struct OwnLayer {
    std::vector<Packed> inputs;
    Packed output, up, down;
    std::optional<OwnNorm> attention_norm;
    OwnNorm feed_norm;
    Activation activation;
    bool gated, pre_norm;
    Aligned<float> frequencies;
    int window;
};

// What one call needs beside the weights; kept by a thread for its next call.
struct Scratch {
    Seconds* seconds;  // null: nobody asks
    std::vector<Tile> tiles;
    Rows x, h, heads, mixed, wide, gated;
    Quads quads;
    std::vector<Head> heads_of_parts;  // that the attention works on at a time
    std::vector<int> position;         // of each token in its text
    Rows cosines, sines;               // of position * frequency, a row for each of `frequencies`
    const float* frequencies;          // of which cosines and sines are; null: of none yet
};

// Adds the time from here to the end of a block to an operation's.
class Watch {
    double* const total_;
    std::chrono::steady_clock::time_point start_;

public:
    Watch(const Scratch& s, Operation operation) : total_(s.seconds ? &(*s.seconds)[static_cast<int>(operation)] : nullptr) {
        if (total_) start_ = std::chrono::steady_clock::now();
    }
    ~Watch() {
        if (total_) *total_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    }
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;
};

class EncoderEngine final : public Engine {
    int hidden_, heads_, head_dim_, max_tokens_, offset_, pad_;
    Table words_;
    std::optional<Table> positions_, types_;
    OwnNorm embedding_norm_;
    std::optional<Packed> projection_;
    std::vector<OwnLayer> layers_;
    Attention attention_;
    std::optional<OwnNorm> final_norm_;

public:
    explicit EncoderEngine(const Encoder& e)
        : hidden_(e.hidden), heads_(e.heads), head_dim_(e.hidden / e.heads), max_tokens_(e.max_tokens),
          offset_(e.embeddings.position_offset), pad_(e.embeddings.pad_id), words_(e.embeddings.words),
          embedding_norm_(e.embeddings.norm, e.embeddings.words.width), attention_(e) {
        positions_ = e.embeddings.positions;
        types_ = e.embeddings.types;
        if (e.embeddings.projection) projection_.emplace(*e.embeddings.projection);
        for (const Layer& layer : e.layers) {
            OwnLayer own{{}, Packed(layer.output), Packed(layer.up), Packed(layer.down), {}, OwnNorm(layer.feed_norm, hidden_),
                         layer.activation, layer.gated, layer.pre_norm, {}, layer.window};
            for (const Linear& linear : layer.inputs) own.inputs.emplace_back(linear);
            if (layer.attention_norm) own.attention_norm.emplace(*layer.attention_norm, hidden_);
            if (layer.frequencies) own.frequencies.assign(layer.frequencies, layer.frequencies + head_dim_ / 2);
            layers_.push_back(std::move(own));
        }
        if (e.final_norm) final_norm_.emplace(*e.final_norm, hidden_);
    }

    std::vector<Choice> choices() const override {
        std::vector<Choice> all;
        if (projection_) all.push_back(projection_->choice());
        for (const OwnLayer& layer : layers_) {
            for (const Packed& packed : layer.inputs) all.push_back(packed.choice());
            for (const Packed* packed : {&layer.output, &layer.up, &layer.down}) all.push_back(packed->choice());
        }
        return all;
    }

    void forward(const int32_t* ids, const int32_t* offsets, const int32_t* types, int texts, float* hidden,
                 Threads& threads, Seconds* seconds) const override {
        // Texts are taken some at a time, so that what is in flight stays in the caches.
        std::vector<std::pair<int, int>> chunks;
        for (int first = 0; first < texts;) {
            int last = first + 1;
            while (last < texts && offsets[last + 1] - offsets[first] <= CHUNK) ++last;
            chunks.emplace_back(first, last);
            first = last;
        }
        auto one = [&](int c, Threads& inside) {
            const auto [first, last] = chunks[c];
            static thread_local Scratch scratch;
            scratch.seconds = seconds;
            chunk(scratch, ids, offsets + first, types, last - first, hidden, inside);
        };
        if (static_cast<int>(chunks.size()) >= threads.count()) {
            Alone alone;
            threads.run(static_cast<int>(chunks.size()), [&](int c) { one(c, alone); });
        } else {
            for (size_t c = 0; c < chunks.size(); ++c) one(static_cast<int>(c), threads);
        }
    }

private:
    static constexpr int CHUNK = 256;  // tokens

    void chunk(Scratch& s, const int32_t* ids, const int32_t* offsets, const int32_t* types, int texts, float* hidden,
               Threads& threads) const {
        const int begin = offsets[0], tokens = offsets[texts] - begin;
        s.tiles.clear();
        for (int first = 0; first < tokens; first += VECTORS * LANES)
            s.tiles.push_back({first, std::min(VECTORS, (tokens - first + LANES - 1) / LANES)});
        const int all = padded(s.tiles);
        s.position.assign(all, 0);
        for (int t = 0; t < texts; ++t)
            for (int i = offsets[t]; i < offsets[t + 1]; ++i) s.position[i - begin] = i - offsets[t];
        s.frequencies = nullptr;
        s.x.reshape(hidden_, all);
        embed(s, ids + begin, types ? types + begin : nullptr, tokens, threads);
        for (const OwnLayer& layer : layers_) run_layer(s, layer, offsets, texts, all, threads);
        if (final_norm_) norm(s, *final_norm_, s.x, s.x, threads);
        // Columns of tokens to rows.
        for (const Tile& tile : s.tiles) {
            const float* x = s.x.tile(tile);
            const int count = std::min(tile.lanes(), tokens - tile.first);
            float* out = hidden + size_t(begin + tile.first) * hidden_;
            for (int k0 = 0; k0 < hidden_; k0 += 16)
                for (int i = 0; i < count; ++i)
                    for (int k = k0; k < std::min(k0 + 16, hidden_); ++k) out[size_t(i) * hidden_ + k] = x[size_t(k) * tile.lanes() + i];
        }
    }

    void embed(Scratch& s, const int32_t* ids, const int32_t* types, int tokens, Threads& threads) const {
        std::optional<Watch> watch(std::in_place, s, Operation::embeddings);
        const int width = words_.width;
        Rows& to = projection_ ? s.wide : s.x;
        const int all = padded(s.tiles);
        to.reshape(width, all);
        std::vector<float> row(width);
        size_t tile_number = 0;
        int counted = 0;
        for (int i = 0; i < all; ++i) {
            while (i >= s.tiles[tile_number].first + s.tiles[tile_number].lanes()) ++tile_number;
            std::fill(row.begin(), row.end(), 0.0f);
            if (i < tokens) {
                if (s.position[i] == 0) counted = 0;
                add_row(words_, ids[i], row.data());
                const bool is_pad = pad_ >= 0 && ids[i] == pad_;
                if (types_) add_row(*types_, types ? types[i] : 0, row.data());
                if (positions_) add_row(*positions_, is_pad ? offset_ - 1 : offset_ + counted, row.data());
                if (!is_pad) ++counted;
            }
            const Tile& tile = s.tiles[tile_number];
            float* column = to.tile(tile) + (i - tile.first);
            for (int k = 0; k < width; ++k) column[size_t(k) * tile.lanes()] = row[k];
        }
        watch.reset();
        norm(s, embedding_norm_, to, to, threads);
        if (projection_) {
            product(s, &*projection_, 1, s.wide, s.x, threads, {Operation::embeddings});
        }
    }

    // Numbers of a tensor from which on its normalization or quantization is shared out among threads.
    static constexpr int WORTH_SHARING = 32768;

    // LayerNorm of every token, by two passes down the lanes.
    void norm(const Scratch& s, const OwnNorm& n, const Rows& from, Rows& to, Threads& threads) const {
        const Watch watch(s, Operation::normalization);
        const int rows = from.rows, tiles = static_cast<int>(s.tiles.size());
        if (threads.count() == 1 || size_t(rows) * padded(s.tiles) < WORTH_SHARING) {
            for (const Tile& tile : s.tiles)
                with_vectors(tile.vectors, [&](auto nv) { norm_vectors<nv>(n, rows, tile.lanes(), from.tile(tile), to.tile(tile)); });
        } else {
            threads.run(tiles * VECTORS, [&](int part) {
                const Tile& tile = s.tiles[part / VECTORS];
                const int v = part % VECTORS;
                if (v < tile.vectors)
                    norm_vectors<1>(n, rows, tile.lanes(), from.tile(tile) + v * LANES, to.tile(tile) + v * LANES);
            });
        }
    }

    template <int NV>
    static void norm_vectors(const OwnNorm& n, int rows, size_t stride, const float* x, float* y) {
        // Even and odd rows have sums of their own, so that an addition does not wait for the one before it.
        F mean[NV], scale[NV], odd[NV];
        auto sums = [&](F (&even)[NV], auto add_row) PRUNEONCE_INLINE_LAMBDA {
            for (int v = 0; v < NV; ++v) even[v] = odd[v] = broadcast(0.0f);
            int k = 0;
            for (; k + 2 <= rows; k += 2)
                for (int v = 0; v < NV; ++v) {
                    even[v] = add_row(even[v], load(x + k * stride + v * LANES), v);
                    odd[v] = add_row(odd[v], load(x + (k + 1) * stride + v * LANES), v);
                }
            if (k < rows)
                for (int v = 0; v < NV; ++v) even[v] = add_row(even[v], load(x + k * stride + v * LANES), v);
            for (int v = 0; v < NV; ++v) even[v] = add(even[v], odd[v]);
        };
        const F share = broadcast(1.0f / static_cast<float>(rows));
        sums(mean, [](F sum, F value, int) PRUNEONCE_INLINE_LAMBDA { return add(sum, value); });
        for (int v = 0; v < NV; ++v) mean[v] = mul(mean[v], share);
        sums(scale, [&](F sum, F value, int v) PRUNEONCE_INLINE_LAMBDA {
            const F d = sub(value, mean[v]);
            return fma(d, d, sum);
        });
        for (int v = 0; v < NV; ++v) scale[v] = div(broadcast(1.0f), sqrt(fma(scale[v], share, broadcast(n.eps))));
        for (int k = 0; k < rows; ++k) {
            const F weight = broadcast(n.weight[k]), bias = broadcast(n.bias[k]);
            for (int v = 0; v < NV; ++v) {
                const size_t at = k * stride + v * LANES;
                store(y + at, fma(mul(sub(load(x + at), mean[v]), scale[v]), weight, bias));
            }
        }
    }

    void quantize(const Scratch& s, const Matrix& m, const Rows& from, Quads& to, Threads& threads) const {
        const Watch watch(s, Operation::quantization);
        const int span = VECTORS * LANES, blocks = (m.inputs + WINDOW - 1) / WINDOW;
        to.reshape(m.groups, (s.tiles.back().first / span + 1) * span);
        const bool shared = threads.count() > 1 && size_t(m.inputs) * padded(s.tiles) >= WORTH_SHARING;
        const int parts = shared ? std::min(blocks, 2 * threads.count()) : 1;
        threads.run(parts, [&](int part) {
            const int first = blocks * part / parts * WINDOW, last = std::min(m.inputs, blocks * (part + 1) / parts * WINDOW);
            for (const Tile& tile : s.tiles) quantize_tile(m, tile.vectors, from.tile(tile), to.tile(tile), first, last);
        });
    }

    // What a product is, and what is done to its outputs.
    struct Beside {
        Operation operation;
        const Rows* residual = nullptr;
        Activation activation = Activation::none;
    };

    // Outputs of several matrices, one below the other, for all tiles; `x` are Rows of float matrices, Quads of integer
    // ones.
    template <class X>
    void multiply(const Scratch& s, const Matrix* const* matrices, int count, int first_row, const X& x, Rows& y,
                  Threads& threads, const Beside& b) const {
        const Watch watch(s, b.operation);
        int all = 0;
        for (int i = 0; i < count; ++i) all += matrices[i]->parts();
        const int parts = threads.count() == 1 ? 1 : std::min(all, threads.count() * 2);
        threads.run(parts, [&](int part) {
            int first = int(int64_t(all) * part / parts), last = int(int64_t(all) * (part + 1) / parts), row = first_row;
            for (int i = 0; i < count; ++i) {
                const Matrix& m = *matrices[i];
                const int begin = std::clamp(first, 0, m.parts()), end = std::clamp(last, 0, m.parts());
                for (const Tile& tile : s.tiles) {
                    if (begin == end) break;
                    Finish f;
                    f.stride = size_t(tile.lanes());
                    f.to = y.tile(tile) + size_t(row) * f.stride;
                    f.residual = b.residual ? b.residual->tile(tile) : nullptr;
                    f.activation = b.activation;
                    tile_product(tile.vectors, m, begin, end, x.tile(tile), f);
                }
                first -= m.parts(), last -= m.parts(), row += m.outputs;
            }
        });
    }

    // y = activation(product) + residual of float rows, which are quantized where the product wants them so. Matrices
    // that take the same inputs in the same order are multiplied together.
    void product(Scratch& s, const Packed* packed, int count, const Rows& x, Rows& y, Threads& threads, const Beside& b) const {
        const bool narrow = s.tiles.size() == 1 && s.tiles[0].vectors == 1;
        for (int first = 0, row = 0; first < count;) {
            const Matrix& m = packed[first].of(narrow);
            std::array<const Matrix*, 3> together = {&m};
            int last = first + 1, rows = m.outputs;
            for (; last < count && last - first < 3 && takes_the_same(m, packed[last].of(narrow)); ++last) {
                together[last - first] = &packed[last].of(narrow);
                rows += packed[last].outputs();
            }
            if (m.is_float()) {
                multiply(s, together.data(), last - first, row, x, y, threads, b);
            } else {
                quantize(s, m, x, s.quads, threads);
                multiply(s, together.data(), last - first, row, s.quads, y, threads, b);
            }
            first = last, row += rows;
        }
    }

    void run_layer(Scratch& s, const OwnLayer& layer, const int32_t* offsets, int texts, int tokens,
                   Threads& threads) const {
        s.heads.reshape(3 * hidden_, tokens);
        s.mixed.reshape(hidden_, tokens);
        s.h.reshape(hidden_, tokens);
        const Rows* in = &s.x;
        if (layer.pre_norm && layer.attention_norm) {
            norm(s, *layer.attention_norm, s.x, s.h, threads);
            in = &s.h;
        }
        product(s, layer.inputs.data(), static_cast<int>(layer.inputs.size()), *in, s.heads, threads, {Operation::inputs});
        std::optional<Watch> watch(std::in_place, s, Operation::attention);
        if (!layer.frequencies.empty()) rotate(s, layer.frequencies, tokens);
        attention_.run(s.heads_of_parts, s.tiles, s.heads, layer.window, offsets, texts, s.mixed, threads);
        watch.reset();
        product(s, &layer.output, 1, s.mixed, s.h, threads, {Operation::output, &s.x});
        if (layer.pre_norm) {
            std::swap(s.x, s.h);  // x is the sum now
            norm(s, layer.feed_norm, s.x, s.h, threads);
            feed(s, layer, s.h, tokens, threads);
            std::swap(s.x, s.mixed);
        } else {
            norm(s, *layer.attention_norm, s.h, s.x, threads);
            feed(s, layer, s.x, tokens, threads);
            norm(s, layer.feed_norm, s.mixed, s.x, threads);
        }
    }

    // mixed = down(f(up(in))) + x
    void feed(Scratch& s, const OwnLayer& layer, const Rows& in, int tokens, Threads& threads) const {
        s.wide.reshape(layer.up.outputs(), tokens);
        product(s, &layer.up, 1, in, s.wide, threads, {Operation::up, nullptr, layer.gated ? Activation::none : layer.activation});
        if (layer.gated) gate(s, layer.activation, tokens);
        product(s, &layer.down, 1, layer.gated ? s.gated : s.wide, s.mixed, threads, {Operation::down, &s.x});
    }

    // gated = activation(first half of wide) * second half
    void gate(Scratch& s, Activation activation, int tokens) const {
        const int inner = s.wide.rows / 2;
        s.gated.reshape(inner, tokens);
        for (const Tile& tile : s.tiles) {
            const float* u = s.wide.tile(tile);
            const size_t half = size_t(inner) * tile.lanes();
            float* to = s.gated.tile(tile);
            std::copy(u, u + half, to);
            const int row = 0;
            activate(activation, to, 0, &row, 1, static_cast<int>(half) / LANES);
            for (size_t i = 0; i < half; i += LANES) store(to + i, mul(load(to + i), load(u + half + i)));
        }
    }

    // Queries and keys turned by their positions.
    void rotate(Scratch& s, const Aligned<float>& frequencies, int tokens) const {
        const int half = head_dim_ / 2;
        turns(s, frequencies, tokens);
        for (const Tile& tile : s.tiles) {
            const int lanes = tile.lanes();
            const float *cosines = s.cosines.tile(tile), *sines = s.sines.tile(tile);
            float* rows = s.heads.tile(tile);
            for (int part = 0; part < 2; ++part)
                for (int h = 0; h < heads_; ++h)
                    for (int d = 0; d < half; ++d) {
                        float* a = rows + size_t(part * hidden_ + h * head_dim_ + d) * lanes;
                        float* b = a + size_t(half) * lanes;
                        for (int i = 0; i < lanes; i += LANES) {
                            const F c = load(cosines + size_t(d) * lanes + i), n = load(sines + size_t(d) * lanes + i);
                            const F va = load(a + i), vb = load(b + i);
                            store(a + i, sub(mul(va, c), mul(vb, n)));
                            store(b + i, add(mul(vb, c), mul(va, n)));
                        }
                    }
        }
    }

    // The cosines and sines of every token, unless they are there from the layer before.
    void turns(Scratch& s, const Aligned<float>& frequencies, int tokens) const {
        const int half = head_dim_ / 2;
        if (s.frequencies && std::equal(frequencies.begin(), frequencies.end(), s.frequencies)) return;
        s.frequencies = frequencies.data();
        s.cosines.reshape(half, tokens);
        s.sines.reshape(half, tokens);
        for (const Tile& tile : s.tiles)
            for (int d = 0; d < half; ++d)
                for (int i = 0; i < tile.lanes(); ++i) {
                    const float angle = static_cast<float>(s.position[tile.first + i]) * frequencies[d];
                    s.cosines.tile(tile)[size_t(d) * tile.lanes() + i] = std::cos(angle);
                    s.sines.tile(tile)[size_t(d) * tile.lanes() + i] = std::sin(angle);
                }
    }
};
