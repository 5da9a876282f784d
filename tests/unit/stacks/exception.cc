// The same for C++: main → guarded, which calls `capture` when it catches; thrown: a destructor does before.
#include <cstring>
#include <stdexcept>

extern "C" void capture();
extern "C" unsigned long returns[8];
static bool in_destructor;

struct Guard {
    int n;
    __attribute__((noinline, noipa)) ~Guard() {
        if (in_destructor) capture();
        n = 0;
    }
};

__attribute__((noinline, noipa)) void thrower(int n) {
    Guard guard{n};
    if (n > 0) throw std::runtime_error("planted");
}

namespace planted {
__attribute__((noinline, noipa)) int guarded(int n) {
    returns[1] = (unsigned long)__builtin_return_address(0);
    try {
        thrower(n);
    } catch (const std::runtime_error &) {
        capture();
    }
    return n;
}
}

int main(int argc, char **argv) {
    in_destructor = argc > 1 && !strcmp(argv[1], "thrown");
    return planted::guarded(argc) + (returns[0] > 0);
}
