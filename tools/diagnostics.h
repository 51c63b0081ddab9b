// How errors look: the layout of the command line (human), one line (short), one JSON object (json).
#pragma once
#include <string>

#include "ir/support/check.h"

namespace quern {

enum class ErrorFormat { human, short_, json };
ErrorFormat parse_error_format(const std::string& name);   // throws Error(bad_value)

/// Ends with a newline. Control characters are made visible; the source line is quoted where its file can be read.
std::string render(const Error& error, ErrorFormat format);
/// Bytes below space and DEL as \xNN, so that no name can steer a terminal; newlines stay.
std::string visible(const std::string& text);

}  // namespace quern
