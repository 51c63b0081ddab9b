# Writes OUT, which names the text of FILES: the emitters, whose images the kernel cache keeps.
foreach(file IN LISTS FILES)
  file(SHA256 ${file} hash)
  string(APPEND all ${hash})
endforeach()
string(SHA256 all "${all}")
string(SUBSTRING ${all} 0 16 all)
file(WRITE ${OUT} "#define QN_EMITTERS \"${all}\"\n")
