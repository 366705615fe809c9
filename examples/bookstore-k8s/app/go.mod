module edgemesh.test/bookstore

go 1.26.0
