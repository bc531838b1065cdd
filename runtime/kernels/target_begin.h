// From here on functions are compiled for PRUNEONCE_TARGET, on compilers that ask for it.
#define PRUNEONCE_PRAGMA(text) _Pragma(#text)
#define PRUNEONCE_GCC_TARGET(text) PRUNEONCE_PRAGMA(GCC target(text))
#define PRUNEONCE_CLANG_TARGET(text) PRUNEONCE_PRAGMA(clang attribute push(__attribute__((target(text))), apply_to = function))
#if defined(__clang__)
PRUNEONCE_CLANG_TARGET(PRUNEONCE_TARGET)
#elif defined(__GNUC__)
#pragma GCC push_options
PRUNEONCE_GCC_TARGET(PRUNEONCE_TARGET)
#endif
