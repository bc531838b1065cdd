// A network as plain arrays and numbers, as python/pruneonce_runtime/spec.py describes it. The caller has checked every
// size. Embedding tables stay the caller's and have to outlive the Engine; all other arrays are read while it is made.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace pruneonce {

enum class Activation { none, gelu, gelu_tanh, relu, silu, tanh };

// y = x W^T + b. Weights are `integers` (with `scale`) or `floats`, [outputs, inputs].
struct Linear {
    int outputs = 0, inputs = 0;
    const int8_t* integers = nullptr;
    const float* floats = nullptr;
    const float* scale = nullptr;  // [scales]; scales is 1, outputs, or outputs * groups
    int scales = 0;
    const float* bias = nullptr;  // [outputs] or null
    float input_scale = 0;        // 0: float32 inputs
    int input_zero = 0;
};

struct Norm {
    const float* weight = nullptr;  // [width]
    const float* bias = nullptr;    // [width] or null
    float eps = 0;
};

// Row r is integers[r] * scale[r], or floats[r].
struct Table {
    int rows = 0, width = 0;
    const int8_t* integers = nullptr;
    const float* floats = nullptr;
    const float* scale = nullptr;
};

struct Embeddings {
    Table words;
    std::optional<Table> positions, types;
    Norm norm;
    std::optional<Linear> projection;
    int position_offset = 0;
    int pad_id = -1;  // -1: every token is counted
};

struct Layer {
    std::vector<Linear> inputs;  // one [3 hidden, hidden] or three [hidden, hidden]
    Linear output, up, down;
    std::optional<Norm> attention_norm;
    Norm feed_norm;
    Activation activation = Activation::gelu;
    bool gated = false, pre_norm = false;
    const float* frequencies = nullptr;  // [head_dim / 2]; null: not rotary
    int window = -1;                     // -1: the whole text
};

struct Encoder {
    Embeddings embeddings;
    std::vector<Layer> layers;
    int heads = 0, hidden = 0, max_tokens = 0;
    const float* relative_bias = nullptr;  // [heads, 2 reach + 1]
    int reach = 0;
    std::optional<Norm> final_norm;
};

}  // namespace pruneonce
