module example.org/garrison/languages

go 1.22
