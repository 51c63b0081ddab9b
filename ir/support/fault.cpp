// See fault.h. The variable is read once, at the first question.
#include "ir/support/fault.h"

#ifdef QN_FAULTS
#include <atomic>
#include <cerrno>
#include <charconv>

#include <fmt/format.h>

#include "ir/support/check.h"
#include "ir/support/env.h"
#endif

namespace quern {

#ifdef QN_FAULTS

const std::vector<FaultInfo>& all_faults() {
  static const std::vector<FaultInfo> faults = {
#define QN_FAULT(name, description) {#name, description},
#include "ir/support/faults.def"
#undef QN_FAULT
  };
  return faults;
}

namespace {

struct Active {
  int fault = -1;          // -1: none
  int64_t full_write = 0;  // 0: none
};

Active read_environment() {
  const char* variable = env(Env::fault);
  const std::string_view text = variable ? variable : "", write = "write:ENOSPC@";
  Active active;
  if (text.empty()) return active;
  if (text.starts_with(write)) {
    const auto [end, error] = std::from_chars(text.data() + write.size(), text.data() + text.size(), active.full_write);
    if (error == std::errc() && end == text.data() + text.size() && active.full_write > 0) return active;
  }
  std::string names;
  for (size_t i = 0; i < all_faults().size(); ++i) {
    if (all_faults()[i].name == text) return {static_cast<int>(i), 0};
    names += fmt::format("{}, ", all_faults()[i].name);
  }
  throw Error(Code::bad_variable, fmt::format("QUERN_FAULT={} names no fault", text)).with_help(fmt::format("one of {}or {}N with N from 1", names, write));
}

const Active& active() {
  static const Active value = read_environment();
  return value;
}

}  // namespace

bool planted(Fault fault) { return active().fault == static_cast<int>(fault); }
bool any_planted() { return active().fault >= 0; }

int planted_write_error() {
  static std::atomic<int64_t> writes = 0;
  return ++writes == active().full_write ? ENOSPC : 0;
}

#else

const std::vector<FaultInfo>& all_faults() {
  static const std::vector<FaultInfo> none;
  return none;
}
bool planted(Fault) { return false; }
bool any_planted() { return false; }
int planted_write_error() { return 0; }

#endif

}  // namespace quern
