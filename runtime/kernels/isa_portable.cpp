#include "common.h"

#include <simde/x86/fma.h>
#include <simde/x86/sse4.1.h>


namespace pruneonce::portable {
#include "set.h"
}  // namespace pruneonce::portable
