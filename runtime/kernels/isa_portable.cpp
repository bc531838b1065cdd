#include "common.h"

#include <simde/x86/fma.h>
#include <simde/x86/sse4.1.h>


namespace pruneonce::portable {
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
}  // namespace pruneonce::portable
