# Writes OUT, which defines NAME as what the text of FILES hashes to: sources whose products the cache keeps.
foreach(file IN LISTS FILES)
  file(SHA256 ${file} hash)
  string(APPEND all ${hash})
endforeach()
string(SHA256 all "${all}")
string(SUBSTRING ${all} 0 16 all)
file(WRITE ${OUT} "#define ${NAME} \"${all}\"\n")
