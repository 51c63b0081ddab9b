// Would the tests find a mistake? Each planted fault (ir/support/faults.def) is switched on in a child process that
// runs a finder: one op of a sweep, or `quern fuzz graphs`. The guess below names the quickest finder of a fault; where
// it finds nothing, all finders are tried. With no fault, every finder passes. Then a full disk under the kernel cache.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ir/support/fault.h"

namespace quern {
namespace {

struct Outcome {
  int status = 0;          // of the command; 128 + signal
  std::string text;
  double seconds = 0;
};
Outcome run(const std::string& environment, const std::string& command) {
  const auto start = std::chrono::steady_clock::now();
  FILE* pipe = ::popen(("env -u QUERN_FAULT " + environment + " timeout 300 " + command + " 2>&1").c_str(), "r");
  Outcome r;
  char block[4096];
  for (size_t n; (n = std::fread(block, 1, sizeof block, pipe)) > 0;) r.text.append(block, n);
  const int status = ::pclose(pipe);
  r.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  r.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return r;
}

const std::string no_cache = "QUERN_CACHE_DIR= ";
const std::string fuzz = std::string(QN_COMMAND) + " fuzz graphs -n 200 --seed 1 --grad --target cpu --stop --no-reduce";
const std::string fuzz_lanes = std::string(QN_COMMAND) + " fuzz graphs -n 80 --seed 1 --grad --vmap --target cpu --stop --no-reduce";
const std::string fuzz_tiles = std::string(QN_COMMAND) + " fuzz graphs -n 400 --seed 1 --grad --vmap --tile --stop --no-reduce";
std::string sweep(const std::string& program, const std::string& filter) {
  const std::map<std::string, std::string> paths = {{"cpu", QN_CPU_SWEEP}, {"op", QN_OP_SWEEP}, {"autodiff", QN_AUTODIFF}, {"control", QN_CONTROL}, {"rnn", QN_RNN}, {"setup", QN_SETUP}, {"sizes", QN_SIZES}, {"loops", QN_SIZED_LOOPS}, {"plan", QN_PLAN}, {"attention", QN_ATTENTION}, {"roles", QN_ROLES}, {"mixed", QN_MIXED}, {"heads", QN_HEADS}, {"clusters", QN_CLUSTERS}, {"overwrite", QN_OVERWRITE}, {"gradient", QN_GRADIENT}};
  return paths.at(program) + " --gtest_brief=1 --gtest_fail_fast --gtest_filter='" + filter + "'";
}

// Errors of some percent, below the greatest one that roundings of bf16 could make.
const std::string check_short = std::string(QN_COMMAND) + " check " QN_SOURCE_DIR "/tests/faults/product.qir --samples 1 --precision bf16";

std::string first_guess(Fault fault) {
  switch (fault) {
    case Fault::last_term_dropped: return check_short;
    case Fault::adjoint_sign: case Fault::adjoint_of_broadcast: return sweep("autodiff", "*EveryOp*");
    case Fault::row_overwritten_early: return sweep("overwrite", "*");
    case Fault::share_left_out: return sweep("roles", "*SharedSums");
    case Fault::gradient_rounded: return sweep("mixed", "*Masters*");
    case Fault::window_walked_late: return sweep("heads", "*Windows");
    case Fault::one_head_walked: return sweep("heads", "*SharedKeys");
    case Fault::turn_not_waited_for: return sweep("gradient", "*InOrder");
    case Fault::barrier_left_out: return sweep("clusters", "*MissingBarriers*");
    case Fault::slot_released_early: return sweep("roles", "*GeneratedProducts");
    case Fault::short_sums_kept: return sweep("roles", "*ProductsOfBytes");
    case Fault::ties_not_shared: return sweep("autodiff", "*Ties*");
    case Fault::fanout_overwritten: return sweep("autodiff", "*UsesAddUp");
    case Fault::vmap_axis: return sweep("op", "*Vmap/reduce_sum");
    case Fault::guard_dropped: return sweep("cpu", "*/pad");
    case Fault::window_residue: return sweep("cpu", "*/window");
    case Fault::concat_split: return sweep("cpu", "*/concat");
    case Fault::reverse_extent: return sweep("cpu", "*/reverse");
    case Fault::reduce_identity: return sweep("cpu", "*/reduce_max");
    case Fault::accumulator_cast: case Fault::lane_tree: case Fault::tail_mask: case Fault::remainder_dropped: return sweep("cpu", "*/reduce_sum");
    case Fault::random_counter: return sweep("cpu", "*/random");
    case Fault::panel_without_mod: case Fault::panel_tail: return sweep("cpu", "*/contract");
    case Fault::load_stride: return sweep("cpu", "*/transpose");
    case Fault::compare_signed: return sweep("cpu", "*/lt");
    case Fault::cast_signed: return sweep("cpu", "*/cast");
    case Fault::bf16_truncated: return sweep("cpu", "*/add");
    case Fault::adjoint_of_atan2: case Fault::adjoint_of_transpose: case Fault::adjoint_of_convolve: return sweep("autodiff", "*EveryOp*");
    case Fault::scan_vjp_direction: case Fault::carry_cotangent: case Fault::stack_cotangent: case Fault::residual_step: case Fault::last_step_only:
    case Fault::carry_entry: case Fault::history_offset: case Fault::slices_start: case Fault::slice_copied_late: case Fault::carry_hoisted: return sweep("control", "*WrittenOut");
    case Fault::cond_vjp_swapped: case Fault::branches_swapped: case Fault::lanes_branch_swapped: return sweep("control", "*CondTakesOne");
    case Fault::while_all: case Fault::done_lanes_go_on: return sweep("control", "*WhileRuns*");
    case Fault::tangents_for_carries: case Fault::stacks_by_step: return sweep("control", "*ForwardMode*");
    case Fault::lanes_moved_back: case Fault::rows_of_lane_0: return sweep("op", "*Vmap/take");
    case Fault::lanes_fill: return sweep("op", "*Vmap/pad");
    case Fault::window_dilation: return sweep("cpu", "*/window");
    case Fault::convolve_start: return sweep("cpu", "*/convolve");
    case Fault::symbol_factor: return sweep("sizes", "*EveryBatch");
    case Fault::rows_packed: case Fault::room_of_kernel: return sweep("loops", "*AnyDim");
    case Fault::panels_filled_in_front: return sweep("rnn", "*WrittenOut");
    case Fault::steps_of_bound: return sweep("loops", "*AsManySteps*");
    case Fault::stale_setup:
    case Fault::state_for_parameter: return sweep("setup", "*RunsAgain*");
    case Fault::bitcast_as_cast: return sweep("cpu", "*/bitcast");
    case Fault::f8_truncated: case Fault::i4_unsigned: return sweep("cpu", "*/cast");
    case Fault::division_truncates: return sweep("cpu", "*/div");
    case Fault::unsigned_shift: return sweep("cpu", "*/shift_right_arithmetic");
    case Fault::directions_merged: return fuzz_tiles;
    case Fault::while_carry: return fuzz_lanes;
    case Fault::sums_unseen: return sweep("plan", "*CompiledPrograms*");
    case Fault::sum_not_scaled:
    case Fault::mask_ends_early:
    case Fault::bound_of_first: return sweep("attention", "*WhatMasksLeave");
    case Fault::gather_unchecked: return sweep("cpu", "*/take");
    default: return fuzz;
  }
}

// All of each finder, from the quickest to the slowest.
std::vector<std::string> all_finders() { return {sweep("autodiff", "*"), fuzz, sweep("control", "*"), fuzz_lanes, fuzz_tiles, sweep("op", "*"), sweep("cpu", "*"), sweep("sizes", "*"), sweep("loops", "*")}; }

/// How the finder failed, or "" where it passed or merely could not run.
std::string verdict_of(const Outcome& r, bool is_fuzz) {
  if (r.status == 0 || r.status == 124 || r.text.find("names no fault") != std::string::npos) return "";
  if (r.status >= 128) return "crash";
  if (is_fuzz) return r.status == 1 ? "mismatch" : r.status == 2 ? "" : "error";
  if (r.text.find("[  FAILED  ]") == std::string::npos) return "";   // gtest's own complaints
  return r.text.find(": Failure") != std::string::npos ? "mismatch" : "error";
}

std::string shown(std::string command) {   // without folders
  command.erase(0, command.find_last_of('/', command.find(' ')) + 1);
  const std::string flags = " --gtest_brief=1 --gtest_fail_fast";
  const size_t at = command.find(flags);
  return at == std::string::npos ? command : command.erase(at, flags.size());
}

TEST(Faults, AllAreFound) {
  ASSERT_GE(all_faults().size(), 60u);
  std::printf("%-30s %-10s %7s  %s\n", "fault", "how", "seconds", "found by");
  for (size_t i = 0; i < all_faults().size(); ++i) {
    const FaultInfo& info = all_faults()[i];
    std::vector<std::string> finders = all_finders();
    finders.insert(finders.begin(), first_guess(static_cast<Fault>(i)));
    std::string how;
    double seconds = 0;
    for (size_t f = 0; f < finders.size() && how.empty(); ++f) {
      if (f > 0 && finders[f] == finders[0]) continue;
      const Outcome r = run(no_cache + "QUERN_FAULT=" + std::string(info.name), finders[f]);
      how = verdict_of(r, finders[f] == check_short || finders[f] == fuzz || finders[f] == fuzz_lanes || finders[f] == fuzz_tiles);
      seconds += r.seconds;
      if (!how.empty()) std::printf("%-30s %-10s %7.1f  %s\n", std::string(info.name).c_str(), how.c_str(), seconds, shown(finders[f]).c_str());
    }
    EXPECT_FALSE(how.empty()) << info.name << " is found by nothing: " << info.description;
    std::fflush(stdout);
  }
}

// What finds a fault finds nothing where there is none. The rest of the sweeps runs under its own labels.
TEST(Faults, WithoutOneEveryFinderPasses) {
  std::set<std::string> finders;
  for (size_t i = 0; i < all_faults().size(); ++i) finders.insert(first_guess(static_cast<Fault>(i)));
  for (const std::string& finder : finders) {
    const Outcome r = run(no_cache, finder);
    EXPECT_EQ(r.status, 0) << finder << "\n" << r.text;
    std::printf("%7.1f s  %s\n", r.seconds, shown(finder).c_str());
  }
}

TEST(Faults, AnUnknownNameIsAnError) {
  const Outcome r = run(no_cache + "QUERN_FAULT=wrong_day", fuzz);
  EXPECT_EQ(r.status, 2) << r.text;
  EXPECT_NE(r.text.find("adjoint_sign"), std::string::npos) << r.text;
  EXPECT_EQ(run(no_cache + "QUERN_FAULT=write:ENOSPC@0", fuzz).status, 2);
}

// What differs is made small: a graph of few ops, which still differs when `quern check` reads it.
TEST(Faults, AFailingCaseIsMadeSmall) {
  for (const char* fault : {"load_stride", "fanout_overwritten", "carry_entry"}) {
    const std::filesystem::path folder = testing::TempDir() + "quern_reduced_" + std::to_string(::getpid());
    std::filesystem::create_directories(folder);
    const std::string with = no_cache + "QUERN_FAULT=" + fault;
    const Outcome r = run(with, std::string(QN_COMMAND) + " fuzz graphs -n 200 --seed 1 --grad --stop --out " + folder.string());
    EXPECT_EQ(r.status, 1) << r.text;
    const size_t to = r.text.find(" to ", r.text.find("\n  from ")), again = r.text.find("again: quern ");
    ASSERT_TRUE(to != std::string::npos && again != std::string::npos) << r.text;
    EXPECT_LE(std::atoi(r.text.c_str() + to + 4), 5) << fault << "\n" << r.text;
    const size_t first = again + std::string("again: quern ").size();
    const std::string line = r.text.substr(first, r.text.find('\n', first) - first);
    EXPECT_EQ(run(with, std::string(QN_COMMAND) + " " + line).status, 1) << fault << ": " << line;
    const Outcome well = run(no_cache, std::string(QN_COMMAND) + " " + line);
    EXPECT_EQ(well.status, 0) << fault << ": " << line << "\n" << well.text;
    std::filesystem::remove_all(folder);
  }
}

// The N-th write of the cache meets a full disk: one note, a correct result, and no damaged entry left behind.
TEST(Faults, AFullDiskCostsANote) {
  const std::filesystem::path folder = testing::TempDir() + "quern_full_disk_" + std::to_string(::getpid());
  const std::string cache = "QUERN_CACHE_DIR=" + folder.string() + " ", command = QN_COMMAND, check = command + " check mlp --set batch=4 --samples 1";
  for (const char* n : {"1", "2", "7"}) {
    std::filesystem::remove_all(folder);
    const Outcome full = run(cache + "QUERN_FAULT=write:ENOSPC@" + n, check);
    EXPECT_EQ(full.status, 0) << full.text;
    EXPECT_NE(full.text.find("passed"), std::string::npos) << full.text;
    const std::string note = "cache off: cannot write to " + folder.string() + ": No space left on device";
    const size_t at = full.text.find(note);
    ASSERT_NE(at, std::string::npos) << full.text;
    EXPECT_EQ(full.text.find(note, at + 1), std::string::npos) << full.text;
    const Outcome verify = run(cache, command + " cache verify");
    EXPECT_EQ(verify.status, 0) << verify.text;
    EXPECT_NE(verify.text.find(" 0 damaged"), std::string::npos) << verify.text;
    int64_t entries = 0;
    for (const auto& e : std::filesystem::directory_iterator(folder)) {
      EXPECT_EQ(e.path().extension(), ".kernel") << e.path();
      ++entries;
    }
    EXPECT_EQ(entries, (std::atoi(n) - 1) / 2);   // an entry is two writes
    const Outcome again = run(cache, check);
    EXPECT_EQ(again.status, 0) << again.text;
    EXPECT_EQ(again.text.find("cache"), std::string::npos) << again.text;
  }
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace quern
