// What the driver of tests/support/fake_cuda.cpp has seen, and how it shall fail. Tests load it by its path; Quern then
// finds it as libcuda.so.1.
#pragma once
#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace quern::test {

struct FakeCuda {
  int alloc_status = 0, pinned_status = 0, node_status = 0;   // what the calls return
  int gpus = 2;
  int64_t foreign = 0;                       // calls on something of another context than the thread's
  int64_t retained = 0, released = 0;
  int64_t released_early = 0;                // contexts, with streams or memory that were still there
  std::map<const void*, size_t> owner;       // of streams, events, modules and memory: the context
  std::vector<std::string> log;              // "sync S", "free", "launch": streams by number
  std::map<const void*, int> streams;        // numbers
  std::vector<std::vector<size_t>> edges;    // of each node of a graph since the last one was made: what it waits for
  std::vector<std::set<size_t>> beside;      // of those, which it may begin beside
};

}  // namespace quern::test

extern "C" quern::test::FakeCuda* fake_cuda();
