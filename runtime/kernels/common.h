// What every instruction set's file includes before its namespace opens.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "engine.h"
#include "model.h"
#include "threads.h"

// Compilers leave some small functions of a kernel alone, and the sums of a product then go through memory.
#if defined(_MSC_VER)
#define PRUNEONCE_INLINE __forceinline
#define PRUNEONCE_INLINE_LAMBDA
#else
#define PRUNEONCE_INLINE inline __attribute__((always_inline))
#define PRUNEONCE_INLINE_LAMBDA __attribute__((always_inline))
#endif

namespace pruneonce {

// Ask for the cache line at `p`, which need not exist.
PRUNEONCE_INLINE void prefetch(const void* p) {
#if defined(__GNUC__)
    __builtin_prefetch(p);
#else
    (void)p;
#endif
}

template <class T>
struct Allocator {
    using value_type = T;
    Allocator() = default;
    template <class U>
    Allocator(const Allocator<U>&) {}
    T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t{64})); }
    void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t{64}); }
    template <class U>
    bool operator==(const Allocator<U>&) const { return true; }
    template <class U>
    bool operator!=(const Allocator<U>&) const { return false; }
};

template <class T>
using Aligned = std::vector<T, Allocator<T>>;

}  // namespace pruneonce
