// Standard headers come before the target is set, so that what they define stays what every processor has.
#include "common.h"

#include <immintrin.h>

#define PRUNEONCE_AVX2 1
#define PRUNEONCE_TARGET "avx2,fma"
#include "target_begin.h"

namespace pruneonce::avx2 {
#include "set.h"
}  // namespace pruneonce::avx2

#include "target_end.h"
