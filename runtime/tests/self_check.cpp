// The kernels' integer sums against plain loops, on every instruction set that the processor has: a program of its own,
// for processors that an emulator stands in for. Prints the name of each instruction set that passed.
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "../kernels/engine.h"
#include "../kernels/model.h"
#include "../kernels/threads.h"

using namespace pruneonce;

namespace {

struct Case {
    int outputs, inputs, block;  // weights are zero in blocks of so many inputs
    double density;
    bool worst;  // the largest numbers that there are, of one sign: sums that saturate would show
};

const Case CASES[] = {
    {1, 1, 1, 1.0, false},    {5, 7, 1, 0.3, false},     {8, 64, 4, 0.0, false},  {33, 130, 1, 0.05, false},
    {33, 130, 4, 0.3, false}, {96, 384, 4, 0.1, false},  {96, 384, 1, 0.1, false}, {64, 256, 1, 1.0, false},
    {16, 3072, 1, 1.0, true}, {16, 3072, 4, 0.5, true},
};

// The weights of a case, [outputs, inputs].
std::vector<int8_t> weights(const Case& c, std::mt19937& draw) {
    std::vector<int8_t> found(size_t(c.outputs) * c.inputs);
    std::uniform_real_distribution<double> share(0, 1);
    std::uniform_int_distribution<int> value(-127, 127);
    for (int row = 0; row < c.outputs; ++row)
        for (int first = 0; first < c.inputs; first += c.block) {
            const bool kept = share(draw) < c.density;
            for (int k = first; k < c.inputs && k < first + c.block; ++k)
                found[size_t(row) * c.inputs + k] = static_cast<int8_t>(!kept ? 0 : c.worst ? -127 : value(draw));
        }
    return found;
}

// Wrong sums of one case with `rows` rows of inputs.
long wrong(const InstructionSet& set, const Case& c, int rows, std::mt19937& draw) {
    const std::vector<int8_t> integers = weights(c, draw);
    const std::vector<float> scale(c.outputs, 0.01f);
    Linear linear;
    linear.outputs = c.outputs;
    linear.inputs = c.inputs;
    linear.integers = integers.data();
    linear.scale = scale.data();
    linear.scales = c.outputs;
    linear.input_scale = 0.25f;  // a power of two: quantization is exact
    linear.input_zero = c.worst ? 0 : 117;
    std::uniform_int_distribution<int> byte(0, 255);
    std::vector<int> bytes(size_t(rows) * c.inputs);
    std::vector<float> x(bytes.size());
    for (size_t i = 0; i < bytes.size(); ++i) {
        bytes[i] = c.worst ? 255 : byte(draw);
        x[i] = 0.25f * static_cast<float>(bytes[i] - linear.input_zero);
    }
    std::vector<int32_t> found(size_t(rows) * c.outputs);
    set.product(linear, "")->sums(x.data(), rows, found.data());
    long errors = 0;
    for (int i = 0; i < rows; ++i)
        for (int row = 0; row < c.outputs; ++row) {
            int32_t sum = 0;
            for (int k = 0; k < c.inputs; ++k)
                sum += (bytes[size_t(i) * c.inputs + k] - linear.input_zero) * integers[size_t(row) * c.inputs + k];
            errors += found[size_t(i) * c.outputs + row] != sum;
        }
    return errors;
}

// Whether every part of many small calls is done once, by threads that share them.
bool threads_do_each_part_once() {
    const auto threads = make_threads(3);
    for (int call = 0; call < 200; ++call) {
        std::vector<int> done(17, 0);
        threads->run(17, [&](int part) { ++done[part]; });
        for (int count : done)
            if (count != 1) return false;
    }
    return true;
}

}  // namespace

int main() {
    long errors = 0;
    for (const InstructionSet& set : instruction_sets()) {
        if (!set.is_here()) continue;
        long here = 0;
        std::mt19937 draw(7);
        for (const Case& c : CASES)
            for (int rows : {1, 3, 16, 21, 64}) here += wrong(set, c, rows, draw);
        std::printf("%s %s\n", set.name, here ? "WRONG" : "right");
        errors += here;
    }
    if (!threads_do_each_part_once()) ++errors, std::printf("threads WRONG\n");
    return errors ? 1 : 0;
}
