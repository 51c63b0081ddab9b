// quern-cc: compiles CUDA C++ for the process that started it, which holds the other end of its standard input. It ends with that.
#include <cstdio>

#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "codegen/cuda/process.h"

int main() {
  int type;
  socklen_t size = sizeof type;
  if (::getsockopt(0, SOL_SOCKET, SO_TYPE, &type, &size) != 0) {
    std::fprintf(stderr, "quern-cc compiles kernels for quern, which starts it; by itself it has nothing to do\n");
    return 2;
  }
#ifndef __SANITIZE_ADDRESS__   // which reserves more than that
  const rlimit memory{rlim_t{4} << 30, rlim_t{4} << 30}, none{0, 0};
  ::setrlimit(RLIMIT_AS, &memory);
  ::setrlimit(RLIMIT_CORE, &none);
#endif
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  return quern::cuda::serve(0);
}
