// A few threads that share out the parts of one call. Which thread does a part never changes its result.
#pragma once

#include <functional>
#include <memory>

namespace pruneonce {

class Threads {
public:
    virtual ~Threads() = default;
    virtual int count() const = 0;
    // Calls work(0) ... work(parts - 1), each once, and returns when all are done.
    virtual void run(int parts, const std::function<void(int)>& work) = 0;
};

// `count` threads, the calling one included; they are started by the first call. Calls from several threads are safe:
// one of them has the workers, the others work alone.
std::unique_ptr<Threads> make_threads(int count);

}  // namespace pruneonce
