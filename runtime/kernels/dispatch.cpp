#include "engine.h"

namespace pruneonce {

#define PRUNEONCE_SET(set)                                    \
    namespace set {                                           \
    std::unique_ptr<Engine> engine(const Encoder& encoder);   \
    std::unique_ptr<Product> product(const Linear& linear, const std::string& kernel); \
    double peak();                                            \
    }

#if defined(__x86_64__) || defined(_M_X64)
PRUNEONCE_SET(avx512bf16)
PRUNEONCE_SET(avx512vbmi)
PRUNEONCE_SET(avx512vnni)
PRUNEONCE_SET(avxvnni)
PRUNEONCE_SET(avx2)
#endif
PRUNEONCE_SET(portable)

namespace {

bool always() { return true; }

#if defined(__x86_64__) || defined(_M_X64)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avxvnni() { return has_avx2() && __builtin_cpu_supports("avxvnni"); }
bool has_avx512vnni() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}
bool has_avx512vbmi() { return has_avx512vnni() && __builtin_cpu_supports("avx512vbmi"); }
bool has_avx512bf16() { return has_avx512vbmi() && __builtin_cpu_supports("avx512bf16"); }
#endif

}  // namespace

const std::vector<InstructionSet>& instruction_sets() {
    static const std::vector<InstructionSet> all = {
#if defined(__x86_64__) || defined(_M_X64)
        {"avx512vbmi", has_avx512vbmi, avx512vbmi::engine, avx512vbmi::product, avx512vbmi::peak},
        // Only where it is asked for: attention rounds to bfloat16.
        {"avx512bf16", has_avx512bf16, avx512bf16::engine, avx512bf16::product, avx512bf16::peak},
        {"avx512vnni", has_avx512vnni, avx512vnni::engine, avx512vnni::product, avx512vnni::peak},
        {"avxvnni", has_avxvnni, avxvnni::engine, avxvnni::product, avxvnni::peak},
        {"avx2", has_avx2, avx2::engine, avx2::product, avx2::peak},
#endif
        {"portable", always, portable::engine, portable::product, portable::peak},
    };
    return all;
}

const InstructionSet* find(const std::string& name) {
    for (const InstructionSet& set : instruction_sets())
        if ((name.empty() || name == set.name) && set.is_here()) return &set;
    return nullptr;
}

}  // namespace pruneonce
