"""Translation of captions: writing the recogniser's words as sentences, engines that translate, and their queue."""
