// A few threads that share out the parts of one call. Which thread does a part never changes its result.
#pragma once

#include <functional>
#include <memory>

namespace pruneonce {

class Threads {
public:
    virtual ~Threads() = default;
    virtual int count() const = 0;
    // Calls work(0) ... work(parts - 1), each once, and returns when all are done. If one throws, so does this.
    virtual void run(int parts, const std::function<void(int)>& work) = 0;
};

// The calling thread by itself.
class Alone final : public Threads {
public:
    int count() const override { return 1; }
    void run(int parts, const std::function<void(int)>& work) override {
        for (int i = 0; i < parts; ++i) work(i);
    }
};

// `count` threads, the calling one included; they are started by the first call, and anew by the first of a forked
// process. Calls from several threads are safe:
// one of them has the workers, the others work alone.
std::unique_ptr<Threads> make_threads(int count);

}  // namespace pruneonce
