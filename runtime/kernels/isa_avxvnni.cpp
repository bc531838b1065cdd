// Standard headers come before the target is set, so that what they define stays what every processor has.
#include "common.h"

#include <immintrin.h>

#define PRUNEONCE_AVX2 1
#define PRUNEONCE_AVXVNNI 1
#define PRUNEONCE_TARGET "avxvnni,avx2,fma"
#include "target_begin.h"

namespace pruneonce::avxvnni {
#include "simd.h"
#include "products.h"
#include "encoder.h"

std::unique_ptr<Engine> engine(const Encoder& encoder) { return std::make_unique<EncoderEngine>(encoder); }
std::unique_ptr<Product> product(const Linear& linear) { return std::make_unique<ProductAlone>(linear); }
}  // namespace pruneonce::avxvnni

#include "target_end.h"
