// What our kernels ask of a GPU, on a CPU: one block after the other, each of its threads a fiber.
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#define __device__
#define __forceinline__ inline
#define __global__
#define __launch_bounds__(...)
#define __shared__ static

struct Index {
    unsigned x, y, z;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
static Index threadIdx, blockIdx, blockDim, gridDim;
alignas(16) static char dynamic_shared[1 << 18];

using std::min;

// A fiber runs until it waits for others.
struct Fiber {
    ucontext_t start;
    jmp_buf here;
    bool has_started, has_ended, waits_for_block, has_waited;
    unsigned num_exchanged;
    std::unique_ptr<char[]> stack;
};
struct Barrier {
    int expected, arrived, generation;
    bool release() {
        if (!arrived || arrived != expected) return false;
        arrived = 0, generation++;
        return true;
    }
};
const int STACK_BYTES = 64 << 10;
static std::vector<Fiber> fibers;
static unsigned current;
static jmp_buf scheduler;
static Barrier of_block, of_warps[32];
static void (*body)(void**);
static void** given;
static unsigned exchanged[32][2][32];

static void give_way() {
    if (!_setjmp(fibers[current].here)) _longjmp(scheduler, 1);
}
static void release(Barrier& barrier) {
    if (barrier.release() && &barrier == &of_block)
        for (Fiber& fiber : fibers) fiber.waits_for_block = false;
}
static void meet(Barrier& barrier) {
    const int generation = barrier.generation;
    barrier.arrived++;
    release(barrier);
    while (barrier.generation == generation) give_way();
}
// Of a kernel that may begin before the one ahead has ended, every thread waits for that.
static bool all_have_waited;
static void emulated_wait() { fibers[current].has_waited = true; }
static void run_thread() {
    body(given);
    all_have_waited &= fibers[current].has_waited;
    fibers[current].has_ended = true;
    Barrier& of_warp = of_warps[current / 32];
    of_warp.expected--, release(of_warp);
    of_block.expected--, release(of_block);
    _longjmp(scheduler, 1);
}
static void resume(unsigned number) {
    current = number;
    threadIdx = {number, 0, 0};
    Fiber& fiber = fibers[number];
    if (_setjmp(scheduler)) return;
    if (fiber.has_started) _longjmp(fiber.here, 1);
    fiber.has_started = true;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = STACK_BYTES;
    makecontext(&fiber.start, run_thread, 0);
    setcontext(&fiber.start);
}
static void run_block() {
    // The first warp goes first, or the last, in turns: where one needs what another writes, they must wait.
    static bool is_forward;
    is_forward = !is_forward;
    const int num_threads = blockDim.x;
    of_block = {num_threads, 0, 0};
    for (int warp = 0; warp < num_threads / 32; warp++) of_warps[warp] = {32, 0, 0};
    std::memset(dynamic_shared, 0xff, sizeof dynamic_shared);  // NaN
    for (int i = 0; i < num_threads; i++) {
        if (i == (int)fibers.size()) fibers.push_back({{}, {}, {}, {}, {}, {}, 0, std::make_unique<char[]>(STACK_BYTES)});
        Fiber& fiber = fibers[i];
        fiber.has_started = fiber.has_ended = fiber.waits_for_block = fiber.has_waited = false;
    }
    // Of a warp, as far as it comes without the others.
    for (bool is_running = true; is_running;) {
        is_running = false;
        for (int warp = 0; warp < num_threads / 32; warp++) {
            const int first = 32 * (is_forward ? warp : num_threads / 32 - 1 - warp);
            for (bool has_moved = true; has_moved; is_running |= has_moved) {
                has_moved = false;
                for (int i = first; i < first + 32; i++)
                    if (!fibers[i].has_ended && !fibers[i].waits_for_block) resume(i), has_moved = true;
            }
        }
    }
}

template <typename... Arguments, std::size_t... I>
static void call(void (*kernel)(Arguments...), void** arguments, std::index_sequence<I...>) {
    kernel(*(Arguments*)arguments[I]...);
}
template <auto KERNEL>
struct Emulated;
template <typename... Arguments, void (*KERNEL)(Arguments...)>
struct Emulated<KERNEL> {
    static void thread(void** arguments) { call(KERNEL, arguments, std::index_sequence_for<Arguments...>()); }
    static bool launch(const unsigned* grid, const unsigned* block, void** arguments) {
        all_have_waited = true;
        fibers.reserve(1024);
        body = thread, given = arguments;
        gridDim = {grid[0], grid[1], grid[2]}, blockDim = {block[0], block[1], block[2]};
        // Of what several blocks share in memory, all but the last come to do their part before any is done.
        for (unsigned x = 0; x < grid[0]; x++)
            for (unsigned y = 0; y < grid[1]; y++)
                for (unsigned z = 0; z < grid[2]; z++) blockIdx = {x, y, z}, run_block();
        return all_have_waited;
    }
};

static void __syncthreads() {
    fibers[current].waits_for_block = true;
    meet(of_block);
}
static void __threadfence() {}
template <typename Number>
static Number exchange(Number x, int lane) {
    // In turns: what was exchanged last may still be read.
    unsigned(&numbers)[32] = exchanged[threadIdx.x / 32][fibers[current].num_exchanged++ % 2];
    std::memcpy(&numbers[threadIdx.x % 32], &x, sizeof x);
    meet(of_warps[threadIdx.x / 32]);
    Number found;
    std::memcpy(&found, &numbers[lane], sizeof found);
    return found;
}
static float __shfl_xor_sync(unsigned, float x, int other) { return exchange(x, threadIdx.x % 32 ^ other); }
static float __shfl_sync(unsigned, float x, int lane) { return exchange(x, lane); }
static unsigned __ballot_sync(unsigned, bool x) {
    unsigned all = x << threadIdx.x % 32;
    for (int other = 16; other; other /= 2) all |= exchange(all, threadIdx.x % 32 ^ other);
    return all;
}
static int __popc(unsigned x) { return __builtin_popcount(x); }
static int atomicAdd(int* at, int x) { return std::exchange(*at, *at + x); }
static float __uint_as_float(unsigned x) {
    float made;
    std::memcpy(&made, &x, sizeof made);
    return made;
}
static float __int_as_float(int x) { return __uint_as_float(x); }
static float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
static unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const unsigned long long both = (unsigned long long)y << 32 | x;
    unsigned made = 0;
    for (int i = 0; i < 4; i++) made |= (unsigned)(both >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
    return made;
}
template <typename Number>
static Number __ldcs(const Number* from) { return *from; }
template <typename Number>
static Number __ldcg(const Number* from) { return *from; }
