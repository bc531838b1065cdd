#include "threads.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
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

// A call puts up a ticket, off which whoever is there tears the numbers of the parts: the caller waits for the parts that
// were torn off, and for no worker that came too late. Workers look at the ticket for a while, since the next product
// follows within microseconds, and then go to sleep.
class Pool final : public Threads {
    static constexpr auto PATIENCE = std::chrono::milliseconds(2);
    static constexpr int MOST_PARTS = 0xffff;

    // One process's workers and what they share with their caller.
    struct Crew {
        const long process;
        std::mutex door, sleeping;
        std::condition_variable wake;
        std::atomic<uint64_t> ticket{0};  // of a call: its number, parts, and the next part, of 32, 16 and 16 bits
        std::atomic<int> done{0}, asleep{0};
        std::atomic<bool> stop{false};
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

        static bool has_parts(uint64_t ticket) { return (ticket & 0xffff) < (ticket >> 16 & 0xffff); }

        // Does parts until there are no more.
        void take() {
            uint64_t now = ticket.load();
            while (has_parts(now)) {
                if (!ticket.compare_exchange_weak(now, now + 1)) continue;
                try {
                    (*work)(static_cast<int>(now & 0xffff));  // the call stays until this part is done
                } catch (...) {
                    std::lock_guard lock(failing);
                    if (!failure) failure = std::current_exception();
                }
                done.fetch_add(1);
                now = ticket.load();
            }
        }

        void wait() {
            while (!stop.load()) {
                const auto start = std::chrono::steady_clock::now();
                for (int looks = 1; !has_parts(ticket.load()) && !stop.load(); ++looks) {
                    pause();
                    if (looks % 64 || std::chrono::steady_clock::now() - start < PATIENCE) continue;
                    std::unique_lock lock(sleeping);
                    asleep.fetch_add(1);  // before the last look at the ticket, so that the caller sees one of the two
                    wake.wait(lock, [&] { return has_parts(ticket.load()) || stop.load(); });
                    asleep.fetch_sub(1);
                }
                take();
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
        if (parts < 2 || parts > MOST_PARTS || !door.owns_lock()) {  // another caller has the workers: this one works alone
            Alone().run(parts, work);
            return;
        }
        c.work = &work;
        c.done.store(0);
        c.ticket.store(((c.ticket.load() >> 32) + 1) << 32 | uint64_t(parts) << 16);
        if (c.asleep.load() > 0) {
            std::lock_guard lock(c.sleeping);
            c.wake.notify_all();
        }
        c.take();
        while (c.done.load() < parts) pause();
        if (c.failure) std::rethrow_exception(std::exchange(c.failure, nullptr));
    }
};

}  // namespace

std::unique_ptr<Threads> make_threads(int count) {
    if (count < 2) return std::make_unique<Alone>();
    return std::make_unique<Pool>(count);
}

}  // namespace pruneonce
