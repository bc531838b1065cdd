// Standard headers come before the target is set, so that what they define stays what every processor has.
#include "common.h"

#include <immintrin.h>

#define PRUNEONCE_AVX512 1
#define PRUNEONCE_VBMI 1
#define PRUNEONCE_TARGET "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma"
#include "target_begin.h"

namespace pruneonce::avx512vbmi {
#include "set.h"
}  // namespace pruneonce::avx512vbmi

#include "target_end.h"
