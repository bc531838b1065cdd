// Standard headers come before the target is set, so that what they define stays what every processor has.
#include "common.h"

#include <immintrin.h>

#define PRUNEONCE_AVX2 1
#define PRUNEONCE_AVXVNNI 1
#define PRUNEONCE_TARGET "avxvnni,avx2,fma"
#include "target_begin.h"

namespace pruneonce::avxvnni {
#include "set.h"
}  // namespace pruneonce::avxvnni

#include "target_end.h"
