// Packages as the commands read them.
#pragma once
#include "codegen/program.h"
#include "ir/graph.h"

namespace quern {

/// The program of a .qpk file, and its graph, whose inputs, outputs and states are those of the program. Throws
/// Error(bad_file).
Program load_package(const std::string& file, Graph* graph);

}  // namespace quern
