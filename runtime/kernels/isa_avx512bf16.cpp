// Standard headers come before the target is set, so that what they define stays what every processor has.
#include "common.h"

#include <immintrin.h>

namespace pruneonce::avx512vbmi {
std::unique_ptr<Engine> engine(const Encoder& encoder);
}

#define PRUNEONCE_AVX512 1
#define PRUNEONCE_VBMI 1
#define PRUNEONCE_BF16 1
#define PRUNEONCE_TARGET "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx512bf16,avx2,fma"
#include "target_begin.h"

namespace pruneonce::avx512bf16 {
#include "simd.h"
#include "products.h"
#include "packing.h"
#include "encoder.h"
#include "linear.h"

// A network whose products do not round their inputs to integers keeps float32 in attention too.
std::unique_ptr<Engine> engine(const Encoder& encoder) {
    for (const Layer& layer : encoder.layers)
        if (!has_integer_inputs(layer.output)) return avx512vbmi::engine(encoder);
    return std::make_unique<EncoderEngine>(encoder);
}
std::unique_ptr<Product> product(const Linear& linear, const std::string& kernel) {
    return std::make_unique<ProductAlone>(linear, kernel);
}
double peak() { return peak_of_products(); }
}  // namespace pruneonce::avx512bf16

#include "target_end.h"
