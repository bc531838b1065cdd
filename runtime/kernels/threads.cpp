#include "threads.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
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

// Workers wait for a call by looking at a number for a while, since the next product follows within microseconds, and
// then go to sleep.
class Pool final : public Threads {
    static constexpr int LOOKS = 2000;

    // One process's workers and what they share with their caller.
    struct Crew {
        const long process;
        std::mutex door, sleeping;
        std::condition_variable wake;
        std::atomic<uint64_t> call{0};
        std::atomic<int> next{0}, left{0};
        std::atomic<bool> stop{false};
        int parts = 0;
        const std::function<void(int)>* work = nullptr;
        std::mutex failing;
        std::exception_ptr failure;  // the first of a call
        std::vector<std::thread> workers;

        Crew(long of_process, int count) : process(of_process) {
            for (int i = 1; i < count; ++i) workers.emplace_back([this] { wait(); });
        }

        ~Crew() {
            {
                std::lock_guard lock(sleeping);
                stop.store(true);
            }
            wake.notify_all();
            for (std::thread& worker : workers) worker.join();
        }

        void take() {
            for (int part; (part = next.fetch_add(1)) < parts;) try {
                    (*work)(part);
                } catch (...) {
                    std::lock_guard lock(failing);
                    if (!failure) failure = std::current_exception();
                }
        }

        void wait() {
            uint64_t seen = 0;
            while (true) {
                int looks = 0;
                while (call.load() == seen && !stop.load() && looks < LOOKS) ++looks, pause();
                if (call.load() == seen && !stop.load()) {
                    std::unique_lock lock(sleeping);
                    wake.wait(lock, [&] { return call.load() != seen || stop.load(); });
                }
                if (stop.load()) return;
                seen = call.load();
                take();
                left.fetch_sub(1);
            }
        }
    };

    const int count_;
    std::atomic<Crew*> crew_{nullptr};

    // This process's crew. Of several first callers the first makes it; a crew that another process had before fork()
    // is left alone, since its threads are not here and its locks may be held for ever.
    Crew& crew() {
        Crew* there = crew_.load();
        if (there && there->process == process()) return *there;
        auto made = std::make_unique<Crew>(process(), count_);
        if (crew_.compare_exchange_strong(there, made.get())) return *made.release();
        return *there;
    }

public:
    explicit Pool(int count) : count_(count) {}

    ~Pool() override {
        Crew* there = crew_.load();
        if (there && there->process == process()) delete there;
    }

    int count() const override { return count_; }

    void run(int parts, const std::function<void(int)>& work) override {
        Crew& c = crew();
        std::unique_lock door(c.door, std::try_to_lock);
        if (parts < 2 || !door.owns_lock()) {  // another caller has the workers: this one works alone
            Alone().run(parts, work);
            return;
        }
        c.parts = parts;
        c.work = &work;
        c.next.store(0);
        c.left.store(count_ - 1);
        {
            std::lock_guard lock(c.sleeping);
            c.call.fetch_add(1);
        }
        c.wake.notify_all();
        c.take();
        while (c.left.load() > 0) pause();
        if (c.failure) std::rethrow_exception(std::exchange(c.failure, nullptr));
    }
};

}  // namespace

std::unique_ptr<Threads> make_threads(int count) {
    if (count < 2) return std::make_unique<Alone>();
    return std::make_unique<Pool>(count);
}

}  // namespace pruneonce
