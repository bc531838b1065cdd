// Everything of one instruction set, and what `engine.h` has of it; included inside its namespace.
#include "simd.h"
#include "products.h"
#include "packing.h"
#include "encoder.h"
#include "linear.h"

std::unique_ptr<Engine> engine(const Encoder& encoder) {
#if defined(PRUNEONCE_BF16)
    // A network whose products do not round their inputs to integers keeps float32 in attention too.
    for (const Layer& layer : encoder.layers)
        if (!has_integer_inputs(layer.output)) return avx512vbmi::engine(encoder);
#endif
    return std::make_unique<EncoderEngine>(encoder);
}

std::unique_ptr<Product> product(const Linear& linear, const std::string& kernel) {
    return std::make_unique<ProductAlone>(linear, kernel);
}
