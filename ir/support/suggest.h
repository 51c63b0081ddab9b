// "Did you mean": the known name closest to a mistyped one, by edit distance.
#pragma once
#include <string>
#include <vector>

namespace quern {

/// The closest of `names` within a third of its length (at least 2) in edits, or "".
std::string closest(const std::string& word, const std::vector<std::string>& names);
/// `did you mean "…"? ` followed by `otherwise`; the latter alone where nothing is close.
std::string suggestion(const std::string& word, const std::vector<std::string>& names, const std::string& otherwise);

}  // namespace quern
