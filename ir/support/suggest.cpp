// See suggest.h.
#include "ir/support/suggest.h"

#include <algorithm>

namespace quern {

static size_t distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = above;
    }
  }
  return row[b.size()];
}

std::string closest(const std::string& word, const std::vector<std::string>& names) {
  std::string best;
  size_t least = 0;
  if (word.size() > 255) return best;
  for (const std::string& name : names) {
    const size_t d = distance(word, name);
    if (d <= std::max<size_t>(2, name.size() / 3) && d < name.size() && (best.empty() || d < least)) least = d, best = name;
  }
  return best;
}

std::string suggestion(const std::string& word, const std::vector<std::string>& names, const std::string& otherwise) {
  const std::string best = closest(word, names);
  return best.empty() ? otherwise : "did you mean \"" + best + "\"?" + (otherwise.empty() ? "" : " " + otherwise);
}

}  // namespace quern
