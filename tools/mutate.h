// Damage for `quern fuzz files`: a valid file with a few changes such as bad disks, bad luck and bad intent make.
#pragma once
#include <random>
#include <string>
#include <vector>

namespace quern {

/// One of the seeds with 1 to 4 changes: flipped bits, telling bytes and numbers, text numbers and words replaced, length
/// prefixes that lie, spans cut, doubled, removed or taken from another seed. At most 64 KiB longer than its seeds.
std::string mutated(const std::vector<std::string>& seeds, std::mt19937_64& random);

/// The same for protobuf: fields are removed, doubled, exchanged, renumbered or changed, and every length is right again.
std::string mutated_protobuf(const std::vector<std::string>& seeds, std::mt19937_64& random);

}  // namespace quern
