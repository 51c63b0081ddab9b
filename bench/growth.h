// `quern bench growth`: time against size. Each family of work at six sizes and more, with the time of one unit of work beside
// it: where that rises by more than a quarter above the least of all smaller sizes, the row says "step".
#pragma once
#include <CLI/CLI.hpp>

namespace quern::bench {

void register_growth(CLI::App& bench);

}  // namespace quern::bench
