#include "threads.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif
#if !defined(_WIN32)
#include <unistd.h>
#endif

namespace pruneonce {

namespace {

inline void pause() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#else
    std::this_thread::yield();
#endif
}

long process() {
#if defined(_WIN32)
    return 0;
#else
    return static_cast<long>(getpid());
#endif
}

class Alone final : public Threads {
public:
    int count() const override { return 1; }
    void run(int parts, const std::function<void(int)>& work) override {
        for (int i = 0; i < parts; ++i) work(i);
    }
};

// Workers wait for a call by looking at a number for a while, since the next product follows within microseconds, and
// then go to sleep.
class Pool final : public Threads {
    static constexpr int LOOKS = 2000;

    struct Shared {
        std::mutex door, sleeping;
        std::condition_variable wake;
        std::atomic<uint64_t> call{0};
        std::atomic<int> next{0}, left{0};
        std::atomic<bool> stop{false};
        int parts = 0;
        const std::function<void(int)>* work = nullptr;
    };

    const int count_;
    long process_ = 0;
    Shared* shared_ = nullptr;
    std::vector<std::thread> workers_;

    static void take(Shared& s) {
        for (int part; (part = s.next.fetch_add(1)) < s.parts;) (*s.work)(part);
    }

    static void wait(Shared& s) {
        uint64_t seen = 0;
        while (true) {
            int looks = 0;
            while (s.call.load() == seen && !s.stop.load() && looks < LOOKS) ++looks, pause();
            if (s.call.load() == seen && !s.stop.load()) {
                std::unique_lock lock(s.sleeping);
                s.wake.wait(lock, [&] { return s.call.load() != seen || s.stop.load(); });
            }
            if (s.stop.load()) return;
            seen = s.call.load();
            take(s);
            s.left.fetch_sub(1);
        }
    }

    // In a child of fork() the workers are gone, and their locks may be held for ever: it begins anew.
    void begin() {
        if (shared_ && process_ == process()) return;
        if (shared_)
            for (std::thread& worker : workers_) new (&worker) std::thread();  // forgets a thread that is not here
        workers_.clear();
        shared_ = new Shared;
        process_ = process();
        for (int i = 1; i < count_; ++i) workers_.emplace_back([s = shared_] { wait(*s); });
    }

public:
    explicit Pool(int count) : count_(count) {}

    ~Pool() override {
        if (!shared_ || process_ != process()) {
            for (std::thread& worker : workers_) new (&worker) std::thread();
            return;
        }
        {
            std::lock_guard lock(shared_->sleeping);
            shared_->stop.store(true);
        }
        shared_->wake.notify_all();
        for (std::thread& worker : workers_) worker.join();
        delete shared_;
    }

    int count() const override { return count_; }

    void run(int parts, const std::function<void(int)>& work) override {
        begin();
        Shared& s = *shared_;
        std::unique_lock door(s.door, std::try_to_lock);
        if (parts < 2 || !door.owns_lock()) {  // another caller has the workers: this one works alone
            for (int i = 0; i < parts; ++i) work(i);
            return;
        }
        s.parts = parts;
        s.work = &work;
        s.next.store(0);
        s.left.store(count_ - 1);
        {
            std::lock_guard lock(s.sleeping);
            s.call.fetch_add(1);
        }
        s.wake.notify_all();
        take(s);
        while (s.left.load() > 0) pause();
    }
};

}  // namespace

std::unique_ptr<Threads> make_threads(int count) {
    if (count < 2) return std::make_unique<Alone>();
    return std::make_unique<Pool>(count);
}

}  // namespace pruneonce
