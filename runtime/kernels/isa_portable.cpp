#include "common.h"

#include <simde/x86/fma.h>
#include <simde/x86/sse4.1.h>


namespace pruneonce::portable {
#include "simd.h"
#include "products.h"
#include "encoder.h"

std::unique_ptr<Engine> engine(const Encoder& encoder) { return std::make_unique<EncoderEngine>(encoder); }
std::unique_ptr<Product> product(const Linear& linear) { return std::make_unique<ProductAlone>(linear); }
}  // namespace pruneonce::portable
