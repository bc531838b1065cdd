// Attention of one head after the other: softmax(q k^T / sqrt(d) + bias of the distance) v. Included after encoder.h's
// tiles.
//
// Query tokens are the lanes. A head's queries, keys and values of several tiles are first copied to where every token
// of a call follows the one before it. Where a processor multiplies pairs of bfloat16 (FOLD is 2), they become that on the way, two features
// of a query or key side by side in a lane, and so do the weights of two tokens; sums stay float32.

// One head of a call; kept by a thread for its next call.
struct Head {
    const Folded *queries, *keys;  // [features / FOLD][stride]
    const Value* values;           // [features][stride]
    int stride;
    Aligned<Folded> folded;
    Aligned<Value> copied;
    Aligned<float> scores;
};

// The head's tokens that one call attends to at a time: lanes from `from` to `to` of `vectors` vectors, of the text from
// `first` to `last`.
struct Span {
    int first, last;
    int base;  // token of the first lane
    int from, to;
};

class Attention {
    int hidden_, heads_, width_, max_tokens_;
    Aligned<float> relative_;  // [heads][2 max_tokens - 1]: for i - j, from -(max_tokens - 1) on

public:
    explicit Attention(const Encoder& e)
        : hidden_(e.hidden), heads_(e.heads), width_(e.hidden / e.heads), max_tokens_(e.max_tokens) {
        if (!e.relative_bias) return;
        const int width = 2 * max_tokens_ - 1;
        relative_.resize(size_t(heads_) * width);
        for (int h = 0; h < heads_; ++h)
            for (int x = 0; x < width; ++x) {
                const int distance = std::clamp(max_tokens_ - 1 - x, -e.reach, e.reach);  // j - i
                relative_[size_t(h) * width + x] = e.relative_bias[h * (2 * e.reach + 1) + distance + e.reach];
            }
    }

    // Rows of `mixed` from `rows`, which are queries, keys and values. `window`: of a local layer, else -1.
    void run(std::vector<Head>& heads, const std::vector<Tile>& tiles, const Rows& rows, int window, const int32_t* offsets,
             int texts, Rows& mixed, Threads& threads) const {
        for (const Tile& tile : tiles)  // lanes that belong to no text
            std::memset(mixed.tile(tile), 0, sizeof(float) * size_t(hidden_) * tile.lanes());
        const int parts = threads.count() == 1 ? 1 : heads_;
        if (heads.size() < size_t(parts)) heads.resize(parts);
        threads.run(parts, [&](int part) {
            for (int h = part * (heads_ / parts); h < (part + 1) * (heads_ / parts); ++h) {
                copy(heads[part], tiles, rows, h);
                for (int t = 0; t < texts; ++t)
                    attend(heads[part], tiles, window, h, offsets[t] - offsets[0], offsets[t + 1] - offsets[0], mixed);
            }
        });
    }

private:
    void copy(Head& head, const std::vector<Tile>& tiles, const Rows& rows, int h) const {
        const int stride = padded(tiles), steps = (width_ + FOLD - 1) / FOLD;
        head.stride = stride;
#if !defined(PRUNEONCE_BF16)
        if (tiles.size() == 1) {
            head.queries = rows.tile(tiles[0]) + size_t(h) * width_ * stride;
            head.keys = head.queries + size_t(hidden_) * stride;
            head.values = head.keys + size_t(hidden_) * stride;
            return;
        }
#endif
        const size_t half = size_t(steps) * stride;
        head.folded.resize(2 * half);
        head.copied.resize(size_t(width_) * stride + LANES);  // the last value is read together with the one behind it
        for (const Tile& tile : tiles) {
            const int lanes = tile.lanes();
            const float* q = rows.tile(tile) + size_t(h) * width_ * lanes;
            const float *k = q + size_t(hidden_) * lanes, *v = k + size_t(hidden_) * lanes;
            for (int i = 0; i < lanes; i += LANES) {
                for (int step = 0; step < steps; ++step) {
                    const size_t from = size_t(step) * FOLD * lanes + i;
                    const bool both = FOLD == 2 && step * FOLD + 1 < width_;
                    Folded* to = head.folded.data() + size_t(step) * stride + tile.first + i;
                    store(to, fold(load(q + from), both ? load(q + from + lanes) : broadcast(0.0f)));
                    store(to + half, fold(load(k + from), both ? load(k + from + lanes) : broadcast(0.0f)));
                }
                for (int d = 0; d < width_; ++d)
                    store_values(head.copied.data() + size_t(d) * stride + tile.first + i, load(v + size_t(d) * lanes + i));
            }
        }
        head.queries = head.folded.data();
        head.keys = head.queries + half;
        head.values = head.copied.data();
    }

    // The text whose tokens are `first` to `last`.
    void attend(Head& head, const std::vector<Tile>& tiles, int window, int h, int first, int last, Rows& mixed) const {
        const int span = VECTORS * LANES;
        for (size_t t = size_t(first / span); t < tiles.size() && tiles[t].first < last; ++t) {
            const Tile& tile = tiles[t];
            const int from = std::max(first, tile.first) - tile.first;
            const int to = std::min(last, tile.first + tile.lanes()) - tile.first;
            const int lane = from / LANES * LANES;
            float* out = mixed.tile(tile) + size_t(h) * width_ * tile.lanes() + lane;
            with_vectors((to - lane + LANES - 1) / LANES, [&](auto vectors) {
                attend_span<vectors>(head, window, h, {first, last, tile.first + lane, from - lane, to - lane}, out, tile.lanes());
            });
        }
    }

    template <int NV>
    void attend_span(Head& head, int window, int h, const Span& span, float* out, int out_stride) const {
        const size_t stride = head.stride;
        int key_first = span.first, key_last = span.last;
        if (window >= 0) {
            key_first = std::max(key_first, span.base + span.from - window);
            key_last = std::min(key_last, span.base + span.to + window);
        }
        const int keys = key_last - key_first, steps = (width_ + FOLD - 1) / FOLD;
        if (head.scores.size() < size_t(keys) * NV * LANES) head.scores.resize(size_t(keys) * NV * LANES);
        float* scores = head.scores.data();
        const Folded *q = head.queries + span.base, *k = head.keys + key_first;
        const float* relative = relative_.empty() ? nullptr : relative_.data() + size_t(h) * (2 * max_tokens_ - 1);
        const F factor = broadcast(1.0f / std::sqrt(static_cast<float>(width_)));
        F highest[NV], total[NV], at[NV];
        for (int v = 0; v < NV; ++v) {
            highest[v] = broadcast(-3.0e38f);
            total[v] = broadcast(0.0f);
            at[v] = lane_numbers(static_cast<float>(span.base + v * LANES));
        }
        // `a` where the key j is in the window of the lane's token, else `other`.
        auto in_window = [&](F a, int v, int j, float other) PRUNEONCE_INLINE_LAMBDA {
            const float key = static_cast<float>(key_first + j), w = static_cast<float>(window);
            return window < 0 ? a : select_within(a, at[v], broadcast(key - w), broadcast(key + w), broadcast(other));
        };
        auto block = [&](auto count, int j) {
            constexpr int C = count;
            F sums[C][NV];
            for (int c = 0; c < C; ++c)
                for (int v = 0; v < NV; ++v) sums[c][v] = broadcast(0.0f);
            for (int step = 0; step < steps; ++step) {
                Fold column[NV];
#pragma GCC unroll 4
                for (int v = 0; v < NV; ++v) column[v] = kept(load(q + step * stride + v * LANES));
#pragma GCC unroll 4
                for (int c = 0; c < C; ++c) {
                    const Fold key = broadcast(k[step * stride + j + c]);
#pragma GCC unroll 4
                    for (int v = 0; v < NV; ++v) sums[c][v] = fold_dot(sums[c][v], column[v], key);
                }
            }
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c)
#pragma GCC unroll 4
                for (int v = 0; v < NV; ++v) {
                    F score = mul(sums[c][v], factor);
                    if (relative) score = add(score, biases(relative, span.base + v * LANES - (key_first + j + c)));
                    score = in_window(score, v, j + c, -3.0e38f);
                    highest[v] = max(highest[v], score);
                    store(scores + ((j + c) * NV + v) * LANES, score);
                }
        };
        int j = 0;
        for (; j + 4 <= keys; j += 4) block(std::integral_constant<int, 4>{}, j);
        for (; j < keys; ++j) block(std::integral_constant<int, 1>{}, j);
        // From scores to weights, FOLD tokens a lane, in their place.
        Folded* weights = reinterpret_cast<Folded*>(scores);
        auto weight = [&](int v, int key) PRUNEONCE_INLINE_LAMBDA {
            const F e = exponential(sub(load(scores + (key * NV + v) * LANES), highest[v]));
            const F inside = in_window(e, v, key, 0.0f);
            total[v] = add(total[v], inside);
            return inside;
        };
        for (j = 0; j + FOLD <= keys; j += FOLD)
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) {
                const F even = weight(v, j), odd = FOLD == 2 ? weight(v, j + 1) : even;
                store(weights + (j / FOLD * NV + v) * LANES, fold(even, odd));
            }
        if (j < keys)
            for (int v = 0; v < NV; ++v) store(weights + (j / FOLD * NV + v) * LANES, fold(weight(v, j), broadcast(0.0f)));
        for (int v = 0; v < NV; ++v) total[v] = div(broadcast(1.0f), max(total[v], broadcast(1e-30f)));
        auto mix = [&](auto count, int d) {
            constexpr int C = count;
            const Value* values = head.values + d * stride + key_first;
            F sums[C][NV];
            for (int c = 0; c < C; ++c)
                for (int v = 0; v < NV; ++v) sums[c][v] = broadcast(0.0f);
            auto add_key = [&](int key, auto read) PRUNEONCE_INLINE_LAMBDA {
                Fold share[NV];
#pragma GCC unroll 4
                for (int v = 0; v < NV; ++v) share[v] = kept(load(weights + (key / FOLD * NV + v) * LANES));
#pragma GCC unroll 4
                for (int c = 0; c < C; ++c) {
                    const Fold value = broadcast(read(values + c * stride + key));
#pragma GCC unroll 4
                    for (int v = 0; v < NV; ++v) sums[c][v] = fold_dot(sums[c][v], share[v], value);
                }
            };
            int key = 0;
            for (; key + FOLD <= keys; key += FOLD) add_key(key, [](const Value* p) { return folded(p); });
            if (key < keys) add_key(key, [](const Value* p) { return half_folded(p); });
            for (int c = 0; c < C; ++c)
                for (int v = 0; v < NV; ++v)
                    store_some(out + (d + c) * out_stride + v * LANES, mul(sums[c][v], total[v]),
                               std::max(0, span.from - v * LANES), std::min(LANES, span.to - v * LANES));
        };
        int d = 0;
        for (; d + 4 <= width_; d += 4) mix(std::integral_constant<int, 4>{}, d);
        for (; d < width_; ++d) mix(std::integral_constant<int, 1>{}, d);
    }

    // LANES biases of distances from `distance` on; those outside the table are of lanes that nobody reads.
    F biases(const float* table, int distance) const {
        const int width = 2 * max_tokens_ - 1, first = distance + max_tokens_ - 1;
        if (first >= 0 && first + LANES <= width) return load(table + first);
        float lanes[LANES];
        for (int i = 0; i < LANES; ++i) lanes[i] = table[std::clamp(first + i, 0, width - 1)];
        return load(lanes);
    }
};
