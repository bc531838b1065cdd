// An encoder made ready for one instruction set, and the instruction sets that there are.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model.h"
#include "threads.h"

namespace pruneonce {

// How the products of a Linear are done, for one that wants to know.
struct Choice {
    const char *kernel, *narrow;  // "dense", "groups", "interleaved", "windows" or "floats"; `narrow` for one vector of tokens
    int outputs, inputs;
    double kept;               // share of the weights that are not 0
    double work, narrow_work;  // share of the products that each kernel does
};

// What a call does, and how long it took for each. Products include what is fused into them.
enum class Operation { embeddings, normalization, quantization, inputs, attention, output, up, down };
constexpr const char* OPERATIONS[] = {"embeddings", "normalization", "quantization", "query, key, value",
                                      "attention",  "attention output", "up, with activation", "down"};
using Seconds = std::array<double, 8>;

class Engine {
public:
    virtual ~Engine() = default;
    // Last hidden states, [tokens, hidden] in row-major order. `types` may be null. With `seconds`, to which the time of
    // each operation is added, `threads` has to be one.
    virtual void forward(const int32_t* ids, const int32_t* offsets, const int32_t* types, int texts, float* hidden,
                         Threads& threads, Seconds* seconds = nullptr) const = 0;
    virtual std::vector<Choice> choices() const = 0;
};

// One Linear by itself: the head of a task.
class Product {
public:
    virtual ~Product() = default;
    // x [rows, inputs] to y [rows, outputs], both in row-major order.
    virtual void run(const float* x, int rows, float* y) const = 0;
    // Its integer sums, [rows, outputs], before scale and bias; only with quantized inputs.
    virtual void sums(const float* x, int rows, int32_t* y) const = 0;
    virtual Choice choice() const = 0;
};

struct InstructionSet {
    const char* name;
    bool (*is_here)();
    std::unique_ptr<Engine> (*engine)(const Encoder&);
    // One Linear by the kernel of this name; the fastest if it is empty.
    std::unique_ptr<Product> (*product)(const Linear&, const std::string& kernel);
    // Products of two integers that a core does in a second, and adds up, if it does nothing else.
    double (*peak)();
};

// Those that were compiled in. The first that a processor has is the one to take.
const std::vector<InstructionSet>& instruction_sets();
// The one with this name, or the first that is here if it is empty; null: there is none.
const InstructionSet* find(const std::string& name);

}  // namespace pruneonce
