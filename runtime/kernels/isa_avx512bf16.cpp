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
#include "set.h"
}  // namespace pruneonce::avx512bf16

#include "target_end.h"
