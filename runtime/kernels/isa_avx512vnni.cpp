// Standard headers come before the target is set, so that what they define stays what every processor has.
#include "common.h"

#include <immintrin.h>

#define PRUNEONCE_AVX512 1
#define PRUNEONCE_TARGET "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma"
#include "target_begin.h"

namespace pruneonce::avx512vnni {
#include "simd.h"
#include "products.h"
#include "packing.h"
#include "encoder.h"
#include "linear.h"

std::unique_ptr<Engine> engine(const Encoder& encoder) { return std::make_unique<EncoderEngine>(encoder); }
std::unique_ptr<Product> product(const Linear& linear, const std::string& kernel) {
    return std::make_unique<ProductAlone>(linear, kernel);
}
double peak() { return peak_of_products(); }
}  // namespace pruneonce::avx512vnni

#include "target_end.h"
